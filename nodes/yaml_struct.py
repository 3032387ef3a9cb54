"""YAML into frozen msgspec structs (or dataclasses): every problem of a file at once, each with its line and key.

The text is composed into YAML nodes, which know their lines, and the nodes are walked along the type. What YAML 1.1
reads differently from how people write it (`no`, `12:30`, `010`) is refused where it matters, with the way out.

No problem text repeats a value of the file: a configuration may hold data that nobody may see. Keys are repeated.

Types: str, int, float, bool, None, Path (relative to the file's directory), Literal, Enum, tuples, lists, dict[str, T],
structs, dataclasses, unions that the shape of the YAML tells apart, and any class with a `yaml_form`: that type is read
and the class is called with it. Constraints: msgspec.Meta's ge, gt, le, lt, min_length, max_length, pattern, and
`checked(...)`. A struct may have a method `problems()` that yields a Problem for each broken rule between its fields;
it is asked once all its fields are good.
"""

from __future__ import annotations

import difflib
import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import msgspec
import msgspec.inspect as mi
import yaml

from mpc.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 32

T = TypeVar("T")
Key = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong: the key path below whoever reports it, and "what is wrong; what to do"."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class Findings(Generic[T]):
    """What reading a file gave."""

    value: T | None
    """None when there is any problem."""
    fields: dict[str, Any]
    """The top-level fields that are good by themselves, for checks that need no more than those."""
    problems: tuple[str, ...]
    """`FILE:LINE: key.path: what is wrong; what to do`, in the order of lines."""
    path: Path
    lines: Mapping[Key, int]

    def at(self, key: Key, text: str) -> str:
        """`FILE:LINE: text` with the line of `key`, or of the nearest key above it that the file has."""
        return f"{self.path}:{_line(self.lines, key)}: {text}"


def checked(rule: Callable[[Any], Iterable[Problem]], **schema: object) -> msgspec.Meta:
    """For Annotated: `rule` gets a value of the right type and yields what is wrong with it.

    `schema` is what a JSON schema can say of the rule, for editors; it may let more pass, and nothing less.
    """
    return msgspec.Meta(extra={"rule": rule}, extra_json_schema=schema or None)


def load(path: Path, type: type[T]) -> T:
    """The `type` that the file spells. Raises ConfigError that lists every problem, one a line."""
    found = examine(path, type)
    if found.value is None:
        raise ConfigError("\n".join(found.problems))
    return found.value


def examine(path: Path, type: type[T]) -> Findings[T]:
    """Like `load`, but returns the problems and whatever is good."""
    walk = _Walk(path)
    try:
        value = cast(T, walk.convert(walk.compose(walk.text()), mi.type_info(type), ()))
    except _StopError as error:
        walk.report(error.line, error.text)
    problems = tuple(text for _, text in sorted(walk.problems, key=lambda problem: problem[0]))
    return Findings(None if problems else value, walk.top, problems, path, walk.lines)


_BAD: Final = object()
_REFUSED = "!refused"  # the tag of a node that has its problem already
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)", re.ASCII)
_POWER = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_DIGITS = 100  # far above 64 bits, far below what makes int() slow

_FOUND = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a decimal point",
    "bool": "true or false",
    "null": "nothing",
    "timestamp": "a date",
    "seq": "a list",
    "map": "a mapping",
}


class _Composer(yaml.SafeLoader):
    """SafeLoader's composer without what a configuration has no use for. Such a node is noted and composing goes on."""

    def __init__(self, text: str, report: Callable[[int, str], None]) -> None:
        super().__init__(text)
        self.report = report
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        events = cast(Any, self)  # the stubs leave these methods untyped
        event = events.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            events.get_event()
            self.report(line, f"alias *{event.anchor}: anchors and aliases are not read; write the value out")
            return yaml.ScalarNode(_REFUSED, "", cast(Any, event.start_mark), None)
        if event.anchor is not None:
            self.report(line, f"anchor &{event.anchor}: anchors and aliases are not read; write the value out")
        if event.tag is not None:
            self.report(line, f"tag {event.tag}: tags are not read; remove it and quote what is meant as text")
        if self.depth == MAX_DEPTH:
            raise _StopError(line, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        self.depth += 1
        node = super().compose_node(cast(yaml.Node, parent), index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and _CONTROL.search(node.value):
            self.report(line, "has a control character; remove it")
            node.tag = _REFUSED
        elif event.tag is not None and node is not None:
            node.tag = _REFUSED
        return node


class _StopError(Exception):
    """Nothing after `line` can be read."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


class _Walk:
    """One file being read: its problems so far, and the line of each key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []
        self.lines: dict[Key, int] = {}
        self.top: dict[str, Any] = {}

    # Reading and composing.

    def text(self) -> str:
        """The file as text."""
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would block
                what = "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
                raise _StopError(0, f"{what}; name a YAML file")
            with self.path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raise _StopError(0, "there is no such file; check the path") from None
        except PermissionError:
            raise _StopError(0, "may not be read by this user; change its owner or mode") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no valid path"
            raise _StopError(0, f"cannot be read ({why}); check the path") from None
        if len(raw) > MAX_FILE_BYTES:
            raise _StopError(0, f"is larger than {MAX_FILE_BYTES} bytes; move what makes it long to a file of its own")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise _StopError(line, "is not UTF-8; save the file as UTF-8") from None

    def compose(self, text: str) -> yaml.Node:
        """The node of the one document."""
        try:
            composer = _Composer(text, self.report)
            node = composer.get_node() if composer.check_node() else None
            if node is None or _found(node) == "null":
                raise _StopError(0, "is empty; start from an example in config/")
            if composer.check_node():
                line = cast(Any, composer).peek_event().start_mark.line + 1
                raise _StopError(line, "a second document begins here; keep one document a file")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            what = f"is not YAML ({error.problem or error.context})"
            raise _StopError(line, f"{what}; check indentation, colons, brackets and quotes") from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, int(error.position)) + 1
            raise _StopError(line, "has a character that YAML does not allow; remove it") from None
        except (ValueError, OverflowError):  # PyYAML lets chr() and int() of what it scanned raise
            raise _StopError(0, "has an escape or a number that YAML cannot hold; look for \\U and %YAML") from None
        return node

    # Problems.

    def report(self, line: int, text: str) -> None:
        """Notes a problem; line 0 is the file as a whole."""
        self.problems.append((line, f"{self.path}:{line}: {text}" if line else f"{self.path}: {text}"))

    def refuse(self, key: Key, text: str) -> object:
        """Notes a problem at `key`, or at the nearest key above it that the file has."""
        self.report(_line(self.lines, key), f"{_prefix(key)}{text}")
        return _BAD

    # Walking: each method returns the value, or _BAD once it has noted why there is none.

    def convert(self, node: yaml.Node, kind: mi.Type, key: Key) -> object:
        """`node` as a `kind`; `key` is its path from the top."""
        self.lines.setdefault(key, node.start_mark.line + 1)
        if node.tag == _REFUSED:
            return _BAD
        form = form_of(kind)
        if form is not None:
            value = self.convert(node, form, key)
            return value if value is _BAD else cast(Any, kind).cls(value)
        if isinstance(kind, mi.Metadata):
            return self.obey(self.convert(node, kind.type, key), kind, key)
        if isinstance(kind, mi.UnionType):
            return self.union(node, kind, key)
        if _shape(node) not in _shapes(kind):
            return self.mismatch(node, kind, key)
        if isinstance(kind, mi.StructType | mi.DataclassType):
            return self.struct(cast(yaml.MappingNode, node), kind, key)
        if isinstance(kind, mi.DictType):
            return self.mapping(cast(yaml.MappingNode, node), kind, key)
        if isinstance(kind, mi.VarTupleType | mi.TupleType | mi.ListType):
            return self.sequence(cast(yaml.SequenceNode, node), kind, key)
        return self.scalar(cast(yaml.ScalarNode, node), kind, key)

    def obey(self, value: object, kind: mi.Metadata, key: Key) -> object:
        rule = (kind.extra or {}).get("rule")
        return self.accept(value, rule(value) if rule is not None and value is not _BAD else (), key)

    def accept(self, value: object, problems: Iterable[Problem], key: Key) -> object:
        """`value` when nothing is wrong with it; what is wrong lies below `key`."""
        found = list(problems)
        for problem in found:
            self.refuse((*key, *problem.key), problem.text)
        return _BAD if found else value

    def union(self, node: yaml.Node, kind: mi.UnionType, key: Key) -> object:
        fitting = [choice for choice in kind.types if _shape(node) in _shapes(choice)]
        if len(fitting) > 1:
            fitting = [choice for choice in fitting if isinstance(choice, _SCALARS.get(_found(node), ()))]
        return self.convert(node, fitting[0], key) if fitting else self.mismatch(node, kind, key)

    def struct(self, node: yaml.MappingNode, kind: mi.StructType | mi.DataclassType, key: Key) -> object:
        fields = {field.encode_name: field for field in kind.fields}
        values: dict[str, object] = {}
        for name_node, value in self.entries(node, key):
            name = name_node.value
            field = fields.get(name)
            if field is None:
                near = difflib.get_close_matches(name, fields, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(fields)}"
                self.refuse((*key, name), f"is not a known key; {advice}")
                values[name] = _BAD
            else:
                values[field.name] = self.convert(value, field.type, (*key, name))
                if not key and values[field.name] is not _BAD:
                    self.top[field.name] = values[field.name]
        missing = [field for field in kind.fields if field.required and field.name not in values]
        for field in missing:
            self.refuse((*key, field.encode_name), f"is missing; add it ({_wanted(field.type)})")
        if missing or _BAD in values.values() or len(values) < len(node.value):
            return _BAD
        made = kind.cls(**values)
        return self.accept(made, made.problems() if hasattr(made, "problems") else (), key)

    def mapping(self, node: yaml.MappingNode, kind: mi.DictType, key: Key) -> object:
        values: dict[object, object] = {}
        for name, value in self.entries(node, key):
            below = (*key, name.value)
            good = self.convert(name, kind.key_type, below)
            values[name.value] = self.convert(value, kind.value_type, below) if good is not _BAD else _BAD
        if _BAD in values.values() or len(values) < len(node.value):
            return _BAD
        return self.sized(values, kind, key)

    def entries(self, node: yaml.MappingNode, key: Key) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """The key and the node of each entry; a key that is not text, or there before, is noted and left out."""
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.tag == _TAG + "merge":
                self.report(line, f"{_prefix(key)}merge keys (<<) are not read; write the keys out")
            elif name.tag == _TAG + "str":
                below = (*key, name.value)
                if below in self.lines:
                    self.report(line, f"{_spell(below)}: is there twice, first in line {self.lines[below]}; remove one")
                    continue
                self.lines[below] = line
                yield name, value
            elif name.tag != _REFUSED:
                found = _FOUND.get(_found(name), "something else")
                way_out = _QUOTE if isinstance(name, yaml.ScalarNode) else "check the brackets"
                self.report(line, f"{_prefix(key)}a key must be text, but YAML reads {found}; {way_out}")

    def sequence(self, node: yaml.SequenceNode, kind: mi.VarTupleType | mi.TupleType | mi.ListType, key: Key) -> object:
        if isinstance(kind, mi.TupleType):
            if len(node.value) != len(kind.item_types):
                return self.refuse(key, f"has {len(node.value)} entries; give exactly {len(kind.item_types)}")
            kinds: Iterable[mi.Type] = kind.item_types
        else:
            kinds = (kind.item_type for _ in node.value)
        pairs = enumerate(zip(node.value, kinds, strict=True))
        values = [self.convert(item, item_kind, (*key, at)) for at, (item, item_kind) in pairs]
        if _BAD in values:
            return _BAD
        made = values if isinstance(kind, mi.ListType) else tuple(values)
        return made if isinstance(kind, mi.TupleType) else self.sized(made, kind, key)

    def sized(self, value: Any, kind: mi.VarTupleType | mi.ListType | mi.DictType, key: Key) -> object:
        if kind.min_length is not None and len(value) < kind.min_length:
            return self.refuse(key, f"has {len(value)} entries; give {kind.min_length} or more")
        if kind.max_length is not None and len(value) > kind.max_length:
            return self.refuse(key, f"has {len(value)} entries; give at most {kind.max_length}")
        return value

    def scalar(self, node: yaml.ScalarNode, kind: mi.Type, key: Key) -> object:
        found, text = _found(node), node.value
        if not isinstance(kind, _SCALARS.get(found, ())):
            return self.mismatch(node, kind, key)
        if isinstance(kind, mi.NoneType):
            return None
        if isinstance(kind, mi.BoolType):
            return text.lower() in ("true", "yes", "on")
        if isinstance(kind, mi.IntType):
            return self.integer(text, kind, key)
        if isinstance(kind, mi.FloatType):
            return self.number(text, found, kind, key)
        if isinstance(kind, mi.LiteralType):
            return text if text in kind.values else self.refuse(key, _choices(text, [str(one) for one in kind.values]))
        if isinstance(kind, mi.EnumType):
            members = {str(member.value): member for member in kind.cls}
            return members[text] if text in members else self.refuse(key, _choices(text, list(members)))
        if isinstance(kind, mi.StrType):
            return self.words(text, kind, key)
        return self.place(text, key)

    def integer(self, text: str, kind: mi.IntType, key: Key) -> object:
        if ":" in text:
            return self.refuse(key, "YAML reads digits with colons as a base-60 number; write plain digits")
        if _DECIMAL.fullmatch(text) is None:
            return self.refuse(key, "YAML reads this as octal, hexadecimal or binary; write plain decimal digits")
        if len(text) > _MAX_DIGITS:
            return self.refuse(key, "has too many digits; give a smaller number")
        return self.limited(int(text), kind, key)

    def number(self, text: str, found: str, kind: mi.FloatType, key: Key) -> object:
        if (found == "int" and _DECIMAL.fullmatch(text) is None) or ":" in text:
            return self.refuse(key, "YAML reads this in another base than ten; write a plain decimal number")
        try:
            value = float(text.replace("_", ""))
        except ValueError:  # .inf and .nan
            value = math.nan
        if not math.isfinite(value):
            return self.refuse(key, "is not finite; give a number")
        return self.limited(value, kind, key)

    def limited(self, value: Any, kind: mi.IntType | mi.FloatType, key: Key) -> object:
        if kind.ge is not None and value < kind.ge:
            return self.refuse(key, f"is too small; give {kind.ge} or more")
        if kind.gt is not None and value <= kind.gt:
            return self.refuse(key, f"is too small; give more than {kind.gt}")
        if kind.le is not None and value > kind.le:
            return self.refuse(key, f"is too large; give {kind.le} or less")
        if kind.lt is not None and value >= kind.lt:
            return self.refuse(key, f"is too large; give less than {kind.lt}")
        return value

    def words(self, text: str, kind: mi.StrType, key: Key) -> object:
        if kind.min_length is not None and len(text) < kind.min_length:
            return self.refuse(key, f"is too short; give {kind.min_length} or more characters")
        if kind.max_length is not None and len(text) > kind.max_length:
            return self.refuse(key, f"is too long; give at most {kind.max_length} characters")
        if kind.pattern is not None and re.search(kind.pattern, text) is None:
            return self.refuse(key, f"does not match the pattern {kind.pattern}; change it so that it does")
        return text

    def place(self, text: str, key: Key) -> object:
        if not text:
            return self.refuse(key, "is empty; name a path")
        return self.path.absolute().parent / text

    def mismatch(self, node: yaml.Node, kind: mi.Type, key: Key) -> object:
        """Notes that the node is of another type than wanted, and the likely way out."""
        wanted, found = _wanted(kind), _found(node)
        if found == "null":
            return self.refuse(key, f"has no value; give {wanted} or remove the key")
        seen = _FOUND.get(found, "something else")
        return self.refuse(key, f"must be {wanted}, but YAML reads {seen}{_advice(node, kind)}")


_QUOTE = "put quotes round it"

_TEXT = (mi.StrType, mi.LiteralType, mi.EnumType, mi.CustomType)
_SCALARS: dict[str, tuple[type[mi.Type], ...]] = {
    "str": _TEXT,
    "int": (mi.IntType, mi.FloatType),
    "float": (mi.FloatType,),
    "bool": (mi.BoolType,),
    "null": (mi.NoneType,),
}
"""Which types a scalar that YAML resolved to this tag may be read as."""


def _found(node: yaml.Node) -> str:
    return str(node.tag).removeprefix(_TAG)


def _shape(node: yaml.Node) -> str:
    if _found(node) == "null":
        return "null"
    if isinstance(node, yaml.CollectionNode):
        return "list" if isinstance(node, yaml.SequenceNode) else "mapping"
    return "scalar"


def form_of(kind: mi.Type) -> mi.Type | None:
    """What is read in place of a class with a `yaml_form`."""
    form = getattr(getattr(kind, "cls", None), "yaml_form", None)
    return None if form is None else mi.type_info(form)


def _bare(kind: mi.Type) -> mi.Type:
    """`kind` as it is read, without annotations."""
    if isinstance(kind, mi.Metadata):
        return _bare(kind.type)
    form = form_of(kind)
    return kind if form is None else _bare(form)


def _shapes(kind: mi.Type) -> set[str]:
    """The shapes of YAML that may spell `kind`."""
    kind = _bare(kind)
    if isinstance(kind, mi.UnionType):
        return set().union(*(_shapes(choice) for choice in kind.types))
    if isinstance(kind, mi.StructType | mi.DataclassType | mi.DictType):
        return {"mapping"}
    if isinstance(kind, mi.VarTupleType | mi.TupleType | mi.ListType):
        return {"list"}
    return {"null"} if isinstance(kind, mi.NoneType) else {"scalar"}


def _wanted(kind: mi.Type) -> str:
    """What a person should write for `kind`."""
    kind = _bare(kind)
    if isinstance(kind, mi.UnionType):
        return " or ".join(_wanted(choice) for choice in kind.types if not isinstance(choice, mi.NoneType))
    if isinstance(kind, mi.LiteralType):
        return f"one of {', '.join(str(value) for value in kind.values)}"
    if isinstance(kind, mi.EnumType):
        return f"one of {', '.join(str(member.value) for member in kind.cls)}"
    if isinstance(kind, mi.VarTupleType | mi.TupleType | mi.ListType):
        return "a list"
    if isinstance(kind, mi.StructType | mi.DataclassType | mi.DictType):
        return "a mapping"
    if isinstance(kind, mi.CustomType):
        return "a path"
    names = {mi.StrType: "text", mi.IntType: "a whole number", mi.FloatType: "a number", mi.BoolType: "true or false"}
    return names.get(type(kind), "nothing")


def _advice(node: yaml.Node, kind: mi.Type) -> str:
    """The way out of a mismatch, with its semicolon."""
    found, text = _found(node), str(node.value)
    if isinstance(kind, _TEXT) and isinstance(node, yaml.ScalarNode):
        if found == "bool":
            return f" (a bare yes, no, on or off is a truth value to it); {_QUOTE}"
        if found == "int" and ":" in text:
            return f" (digits with colons are a base-60 number to it); {_QUOTE}"
        return f"; {_QUOTE}"
    if found == "str" and cast(yaml.ScalarNode, node).style in ("'", '"'):
        return "; remove the quotes"
    if found == "str" and isinstance(kind, mi.FloatType) and _POWER.fullmatch(text):
        return f" (a power of ten needs a point); write {text.lower().replace('e', '.0e')}"
    if found == "float" and isinstance(kind, mi.IntType) and any(map(str.isdigit, text)):
        return "; write it without point and exponent"
    return f"; write {_wanted(kind)} here"


def _choices(text: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(text, choices, n=1)
    return f"must be one of {', '.join(choices)}; " + (f"did you mean {near[0]!r}?" if near else "choose one")


def _line(lines: Mapping[Key, int], key: Key) -> int:
    """The line of `key`, or of the nearest key above it that the file has."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _spell(key: Key) -> str:
    """`policy.vouched.members[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _prefix(key: Key) -> str:
    return f"{_spell(key)}: " if key else ""
