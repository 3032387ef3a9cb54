"""A value in an environment variable: `environment: MY_SYSTOLIC`. Several stand with commas between them, a record each.

A service gets it from a file by `EnvironmentFile=` of its unit. Set and empty, or nothing between two commas, is a missing value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from nodes.fields import Text
from nodes.sources.base import Found, Wanted, column_of, entry, refuse


class EnvironmentVariable:
    """The name of one."""

    __slots__ = ("name",)

    yaml_form: ClassVar[object] = Text
    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<EnvironmentVariable {self.name}>"

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"environment variable {self.name}"

    @classmethod
    def read(cls, asked: Sequence[tuple[EnvironmentVariable, Wanted]]) -> list[Found]:
        """Raises DataError when one is not set or spells no such value."""
        return [source._read(wanted) for source, wanted in asked]

    def _read(self, wanted: Wanted) -> Found:
        text = os.environ.get(self.name)
        if text is None:
            refuse(wanted.variable, self.place, "is not set; set it where this daemon is started")
        try:
            return Found(column_of(wanted.declared, [entry(wanted.declared, part) for part in text.split(",")]), "environment")
        except ValueError as rule:
            refuse(wanted.variable, self.place, f"{rule}; correct it where this daemon is started")
