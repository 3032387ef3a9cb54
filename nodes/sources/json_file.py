"""Values from a JSON file: an array of records, each with the value at one place in it (JSON Pointer, RFC 6901).

`array: /data/readings` says where the array is, `value: /systolic` where the value is in each of its elements. Where there is an
object instead of an array, it is the one record. The file is read at once; DuckDB reads larger ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn

import msgspec

from nodes.sources.base import Entry, Found, Wanted, column_of, key_of, refuse, typed_entry
from nodes.sources.files import together, whole
from nodes.yaml_struct import Problem, checked

MOST_BYTES = 256 << 20
"""Of a file that is read at once; Python's objects take several times that."""
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_INDEX = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def _pointer(text: str) -> Iterator[Problem]:
    if _POINTER.fullmatch(text) is None:
        yield Problem((), "is not a JSON Pointer; write for instance /vitals/systolic, or nothing for the whole")


Pointer = Annotated[str, checked(_pointer)]


class JsonFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which places of which file."""

    needs: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = False

    file: Path
    array: Pointer = ""
    """Where the records are; the whole document if it is not given."""
    value: Pointer
    """Where the value is in each record; of a variable with a length, an array."""
    key: Pointer | None = None
    """Where in each record it is said whose it is."""

    @property
    def place(self) -> str:
        """See `Reader.place`."""
        return f"{self.value!r} in {self.file}"

    @classmethod
    def read(cls, asked: Sequence[tuple[JsonFile, Wanted]]) -> list[Found]:
        """Raises DataError that names file, record and rule, never a value."""
        return together(asked, lambda source: source.file, _read)


def _read(path: Path, asked: Sequence[tuple[JsonFile, Wanted]]) -> list[Found]:
    document = parsed(whole(asked[0][1].variable, path, "a JSON file", MOST_BYTES), asked[0][1].variable, str(path))
    return [_found(source, wanted, document) for source, wanted in asked]


def parsed(content: bytes, variable: str, where: str) -> Any:
    """JSON (RFC 8259) without NaN, infinities and repeated names. Raises DataError with the line, and nothing of the content."""
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError:
        refuse(variable, where, "is not UTF-8; save the file as UTF-8")
    except json.JSONDecodeError as error:
        refuse(variable, f"{where}:{error.lineno}", "is not JSON; correct it")
    except RecursionError:
        refuse(variable, where, "is nested too deeply; correct it")
    except _NotStrictError as error:
        refuse(variable, where, f"{error}; correct it")


def _found(source: JsonFile, wanted: Wanted, document: Any) -> Found:
    records = _at(document, source.array)
    if isinstance(records, dict):
        records = [records]
    if not isinstance(records, list):
        refuse(wanted.variable, str(source.file), f"there are no records at {source.array!r}; say with 'array' where they are")
    entries: list[Entry | None] = []
    keys: list[str] | None = None if source.key is None else []
    for number, record in enumerate(records, start=1):
        if len(entries) > wanted.most:
            break
        what = source.value
        try:
            values = _values(_at(record, what), wanted)
            entries += values
            if keys is not None:
                what = source.key or ""
                keys += [key_of(_at(record, what))] * len(values)
        except ValueError as rule:
            refuse(wanted.variable, f"{source.file}: record {number}", f"{what!r} {rule}; correct it")
    return Found(column_of(wanted.declared, entries), f"{source.file} at {source.array!r}", keys)


def _values(value: Any, wanted: Wanted) -> list[Entry | None]:
    if wanted.length == 1:
        return [typed_entry(wanted.declared, value)]
    if not isinstance(value, list) or len(value) != wanted.length:
        raise ValueError(f"is no array of {wanted.length} values")
    return [typed_entry(wanted.declared, one) for one in value]


def _at(value: Any, pointer: str) -> Any:
    """What the pointer points to; None where there is nothing (RFC 6901, section 4)."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


class _NotStrictError(Exception):
    """What Python's parser lets through; the text says which."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _NotStrictError("has an object with one name twice")
    return made


def _no_constant(_text: str) -> NoReturn:
    raise _NotStrictError("has NaN or Infinity, which is not JSON")
