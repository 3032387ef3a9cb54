"""Bytes that never print: seeds, round keys and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

Entropy = Callable[[int], bytes]
"""Gives that many unpredictable bytes, as os.urandom does."""


class Secret:
    """Holds bytes. Has no repr, no comparison by value, no pickle; `reveal` is the one way to the bytes."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes, for the one computation that needs them."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")
