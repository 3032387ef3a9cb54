"""The rounds of a logistic regression: which question comes next, or what came of them.

    fit = Fit.start(study)
    ... run a round of fit.study, then:  fit = fit.advance(totals, members)
    until it is no Fit any more but the figures

Pure: whoever runs rounds keeps the `Fit` between them, and asks `fit.study` as it asks any study. The first round is the study
as it was written, with everything else that it asks; the later ones ask for the regression alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from mpc.errors import StudyError
from mpc.statistics.component import Values
from mpc.statistics.layout import ask, make_layout, problems, take_apart
from mpc.statistics.logistic_regression import (
    COEFFICIENT_SCALE,
    MAX_COEFFICIENT,
    SEPARABLE,
    LogisticRegression,
    LogisticRegressionFigures,
    Numbers,
    Step,
    fitted,
    step_of,
    without,
)
from mpc.study import Study

MOST_ROUNDS = 25
_STALLED = 3
"""Steps in a row that do not shrink although nothing is left to gain: what separable records look like."""
_NOTHING_LEFT = 1e-3
"""A decrement at which Newton's steps shrink by themselves, unless the likelihood has no top."""
_HALVED = 10
"""Halvings of one step, after which none will help."""


@dataclass(frozen=True, slots=True, repr=False)
class Fit:
    """Where a regression stands: the round to run next, and what the last ones gave."""

    study: Study
    rounds: int = 0
    """That have been run."""
    last: Step | None = None
    """From the coefficients that were best so far."""
    halvings: int = 0
    """Of the last step, because all of it went too far."""
    stalled: int = 0

    @classmethod
    def start(cls, study: Study) -> Fit:
        """Raises StudyError unless the study has exactly one logistic regression."""
        found = [statistic for statistic in study.statistics if statistic.kind == LogisticRegression.kind]
        if len(found) != 1:
            raise StudyError(f"study {study.id}: it has {len(found)} logistic regressions; give each a study of its own")
        return cls(study)

    def advance(self, totals: Sequence[Values], members: int) -> Fit | LogisticRegressionFigures:
        """What follows from the decoded totals of a round of `self.study` over `members` members."""
        layout = make_layout(self.study)
        (at,) = [place for place, part in enumerate(layout.parts) if isinstance(part.family, LogisticRegression)]
        asked, rounds = layout.parts[at].asked, self.rounds + 1
        (sums,) = take_apart(layout.parts[at], totals[at], members)
        step = step_of(asked, sums)
        if isinstance(step, str):
            return without(asked, sums, step, rounds)
        following = self._follow(step, rounds)
        if following is None:
            return fitted(asked, sums, step, rounds)
        return without(asked, sums, following, rounds) if isinstance(following, str) else following

    def _follow(self, step: Step, rounds: int) -> Fit | str | None:
        """The next round, or why there is none; None when the fit has come to rest."""
        if self.last is not None and step.likelihood < self.last.likelihood - _unsure(step):
            if self.halvings == _HALVED or rounds == MOST_ROUNDS:
                return f"no step improves the likelihood after {rounds} rounds"
            halvings = self.halvings + 1
            return self._ask(self.last.at + self.last.by / 2**halvings, rounds, self.last, halvings, self.stalled)
        if step.steady:
            return None
        moves_on = self.last is not None and step.decrement < _NOTHING_LEFT and step.size > self.last.size / 2
        stalled = self.stalled + 1 if moves_on else 0
        if stalled == _STALLED:
            return SEPARABLE
        if rounds == MOST_ROUNDS:
            return f"it has not come to rest after {rounds} rounds"
        return self._ask(step.at + step.by, rounds, step, 0, stalled)

    def _ask(self, coefficients: Numbers, rounds: int, last: Step, halvings: int, stalled: int) -> Fit | str:
        if not np.abs(coefficients).max() < MAX_COEFFICIENT:
            return f"its coefficients leave all bounds after {rounds} rounds"
        (statistic,) = [one for one in self.study.statistics if one.kind == LogisticRegression.kind]
        steps = tuple(int(step) for step in np.rint(coefficients * COEFFICIENT_SCALE))
        used = {statistic.variable, *statistic.others}
        study = replace(
            self.study,
            statistics=(replace(statistic, coefficients=steps),),
            variables=tuple(variable for variable in self.study.variables if variable.name in used),
        )
        if any(problems(*ask(study, study.statistics[0]))):
            return f"its coefficients leave what a round can carry after {rounds} rounds; ask for fewer 'records'"
        return Fit(study, rounds, last, halvings, stalled)


def _unsure(step: Step) -> float:
    """A difference of likelihoods that may be rounding alone."""
    return 4 * step.likelihood_noise + 1e-9 * abs(step.likelihood)
