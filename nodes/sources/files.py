"""A source's file: that it is there, a regular file, and can be read; and what a person is told when not."""

from __future__ import annotations

import stat
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nodes.sources.base import Found, Wanted, refuse

S = TypeVar("S")
H = TypeVar("H", bound=Hashable)


def together(
    asked: Sequence[tuple[S, Wanted]], of: Callable[[S], H], read: Callable[[H, Sequence[tuple[S, Wanted]]], list[Found]]
) -> list[Found]:
    """Reads what lies in one place at once: `of` says where a source lies, `read` reads all that lie there, in their order."""
    found: dict[int, Found] = {}
    for place in dict.fromkeys(of(source) for source, _ in asked):
        ours = [at for at, (source, _) in enumerate(asked) if of(source) == place]
        found |= zip(ours, read(place, [asked[at] for at in ours]), strict=True)
    return [found[at] for at in range(len(asked))]


@contextmanager
def reading(variable: str, path: Path, kind: str) -> Iterator[None]:
    """Makes a DataError of what goes wrong with the file while it is read. `kind` is what it should be: "a CSV file"."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            refuse(variable, str(path), f"is not a regular file; name {kind}")
        yield
    except FileNotFoundError:
        refuse(variable, str(path), "there is no such file; check the path")
    except OSError as error:
        refuse(variable, str(path), f"cannot be read ({error.strerror}); check path, owner and mode")


def whole(variable: str, path: Path, kind: str, most: int) -> bytes:
    """The file's content. Raises DataError when it cannot be read or has more than `most` bytes."""
    with reading(variable, path, kind), path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        refuse(variable, str(path), f"is larger than {most >> 20} MiB, and read at once; docs/sources.md says what streams")
    return content
