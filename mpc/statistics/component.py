"""What every statistics family speaks of: local values, the question, and the integers that one record adds to a total.

A family knows records and nothing of rings: it says between which integers each of its elements lies for one record, adds up
local records exactly, and makes figures of the totals over all members. How many records a node holds, missing values, groups
and rings are the business of `mpc.statistics.layout`, the same for all families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mpc.statistics.cells import Cells, Runs
from mpc.statistics.figures import Comparison, Figures
from mpc.study import CATEGORY, Statistic, Variable

Values = npt.NDArray[np.int64]
"""Local values or totals: a number in steps of 1/scale of its variable, a category as its place in the list."""

MISSING = -(2**63)
"""In a column of Values: there is no value. No variable's bounds contain it."""


@dataclass(frozen=True, slots=True)
class Block:
    """`length` elements to each of which one record adds an integer in [low, high]."""

    low: int
    high: int
    length: int = 1
    label: str = ""
    """For people, where it is not the statistic's own name: "products of two variables"."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One statistic of a study, with all that it is about."""

    statistic: Statistic
    variables: tuple[Variable, ...]
    """The statistic's `variable`, then its `others`."""
    by: Variable | None
    records: int
    """The most that one node holds."""
    members: int
    """Who are invited."""

    @property
    def one_each(self) -> bool:
        """Whether every member adds exactly one record to the one total: then n is the number of members."""
        return self.records == 1 and self.by is None and not self.omits

    @property
    def omits(self) -> bool:
        """Whether records may be left out because a value is missing."""
        return any(variable.omits for variable in (*self.variables, *([self.by] if self.by else [])))


@dataclass(frozen=True, slots=True, repr=False)
class Sums:
    """What a family decodes: exact totals over the records of all members (of one group)."""

    n: int
    left_out: int
    """Records of the whole statistic, all groups together, that a missing value kept out."""
    totals: Values
    """The elements of the family's blocks, one after the other."""
    members: int
    """Who took part."""


class Family(ABC):
    """One kind of statistic. A subclass is one file beside this one and one line in `mpc.statistics.FAMILIES`."""

    kind: ClassVar[str]
    reveals: ClassVar[str]
    """What the hospital sees besides the figures: a sum hides records, not the totals that figures are made of."""
    others: ClassVar[str] = ""
    """What the further variables are; empty where there are none."""
    most_others: ClassVar[int] = 0
    least_others: ClassVar[int] = 0
    takes: ClassVar[frozenset[str]] = frozenset()
    """Which of the parameters `bins`, `edges`, `quantiles`, `level`, `coefficients` mean something."""
    vectors: ClassVar[bool] = False
    """Whether its variable may have a length above 1."""
    grouped: ClassVar[bool] = True
    """Whether `by` is possible."""
    adds: ClassVar[bool] = False
    """Whether its figures tell sums of values that are numbers."""
    counted: ClassVar[bool] = False
    """Whether n is added up even where it is known to be the number of members."""

    @abstractmethod
    def problems(self, asked: Asked) -> Iterator[str]:
        """What is wrong with the question, each with what to do."""

    @abstractmethod
    def blocks(self, asked: Asked) -> Sequence[Block]:
        """What one record adds. Depends on the question alone, and every value within its variable's bounds fits."""

    @abstractmethod
    def totals(self, asked: Asked, columns: Sequence[Values]) -> Values:
        """The elements of the blocks over local records, shape (elements,).

        `columns` has one array a variable, shape (records,), or (records, length) for a vector; none is MISSING, all are within
        their bounds, and there may be no record at all.
        """

    @abstractmethod
    def figures(self, asked: Asked, sums: Sums) -> Figures:
        """The result. Never NaN, never an exception: what cannot be computed is a Quantity with a reason."""

    def cells(self, asked: Asked, sums: Sums) -> Iterable[Cells]:
        """The counts of records that the figures tell or that follow from them, besides n."""
        return ()

    def coarser(self, asked: Asked, sums: Sums, runs: Mapping[str, Runs]) -> tuple[Asked, Sums]:
        """The question and the totals with the axes of `cells` merged, by variable; unchanged where none of them is."""
        return asked, sums

    def compare(self, asked: Asked, groups: Sequence[Sums]) -> Comparison | None:
        """A test between the groups of `by`, where this statistic has one."""
        return None


def must_be_numbers(variables: Sequence[Variable]) -> Iterator[str]:
    """A problem for each variable that is a category."""
    for variable in variables:
        if variable.type == CATEGORY:
            yield f"{variable.name} is a category, which has no size; name a number"


def must_be_categories(variables: Sequence[Variable]) -> Iterator[str]:
    """A problem for each variable that is no category."""
    for variable in variables:
        if variable.type != CATEGORY:
            yield f"{variable.name} is a number; name a category, or give it the type 'category' and its 'categories'"


def must_be_yes_or_no(variable: Variable) -> Iterator[str]:
    """A problem unless the variable has two values: the second is the event."""
    if variable.minimum != 0 or variable.maximum != 1 or variable.scale != 1:
        yield f"{variable.name} must be a category of two, the event last, or an integer with the bounds [0, 1]"
