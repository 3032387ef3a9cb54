"""A value that a person types: `prompt: Your systolic pressure this morning`. Asked once, when the daemon starts on a terminal.

What is typed is not shown, is checked against what is declared, and stays in memory until the daemon ends; a reload does not ask
again. A daemon without a terminal (a service, a container) has nobody to ask and does not start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from nodes.fields import Text
from nodes.sources.base import Found, Wanted, refuse


class Prompt:
    """What a person is asked."""

    __slots__ = ("text",)

    yaml_form: ClassVar[object] = Text
    place: ClassVar[str] = "its prompt"
    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = True

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def read(cls, asked: Sequence[tuple[Prompt, Wanted]]) -> list[Found]:
        """Always raises DataError: `nodes.config.answers` puts what was typed in the place of the question."""
        refuse(asked[0][1].variable, cls.place, "nobody was asked; start the daemon on a terminal")
