"""Each way in which a file can be wrong, with the text that a person reads; and that what round-trips loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import ConfigError
from nodes.yaml_struct import MAX_FILE_BYTES, Problem, checked, examine, load


class Colour(Enum):
    RED = "red"
    GREEN = "green"


def _even(number: int) -> Iterator[Problem]:
    if number % 2:
        yield Problem((), "is odd; give an even number")


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    low: int
    high: int = 10

    def problems(self) -> Iterator[Problem]:
        if self.low > self.high:
            yield Problem(("low",), "is above 'high'; swap them")


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "x"
    count: int = 0
    weight: float = 0.0
    flag: bool = False
    file: Path = Path("/none")
    maybe: int | None = None
    either: int | tuple[int, ...] = 0
    names: tuple[str, ...] = ()
    scalar: str | float = ""
    numbers: list[int] = []
    pair: tuple[int, int] = (0, 0)
    table: dict[str, int] = {}
    inner: Inner | None = None
    mode: Literal["fast", "slow"] = "fast"
    colour: Colour = Colour.RED
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    short: Annotated[str, msgspec.Meta(min_length=1, max_length=3)] = "a"
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "a"
    few: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=2)] = (1,)
    even: Annotated[int, checked(_even)] = 0


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    inner: Inner


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of a text or bytes, without the file's path."""

    def problems(content: str | bytes, type: type[Any] = Outer) -> list[str]:
        path = tmp_path / "node.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError) as caught:
            load(path, type)
        return [line.removeprefix(str(path) + ":") for line in str(caught.value).splitlines()]

    return problems


def test_every_type_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        """
name: 'no'
count: -1_000
weight: 3
flag: yes
file: keys/a.pem
maybe: 4
either: [1, 2]
names: [a, "12:30"]
scalar: 1.5
numbers: [1]
pair: [3, 4]
table: {a: 1, "on": 2}
inner: {low: 2}
mode: slow
colour: green
"""
    )
    assert load(path, Outer) == Outer(
        name="no",
        count=-1000,
        weight=3.0,
        flag=True,
        file=tmp_path / "keys/a.pem",
        maybe=4,
        either=(1, 2),
        names=("a", "12:30"),
        scalar=1.5,
        numbers=[1],
        pair=(3, 4),
        table={"a": 1, "on": 2},
        inner=Inner(low=2),
        mode="slow",
        colour=Colour.GREEN,
    )


def test_an_absolute_path_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("file: /etc/a.pem\nmaybe: null\n")
    assert load(path, Outer) == Outer(file=Path("/etc/a.pem"), maybe=None)


def test_every_problem_is_listed_at_once_in_the_order_of_lines(wrong: Callable[..., list[str]]) -> None:
    assert wrong("port: 0\nnaem: x\ncount: 1.5\ninner:\n  low: a\n") == [
        "1: port: is too small; give 1 or more",
        "2: naem: is not a known key; did you mean 'name'?",
        "3: count: must be a whole number, but YAML reads a number with a decimal point; write it without point and exponent",
        "5: inner.low: must be a whole number, but YAML reads text; write a whole number here",
    ]


BAD = [
    ("unknown key with no near one", "zzz: 1\n", "1: zzz: is not a known key; the keys here are name, "),
    ("duplicate key", "name: a\ncount: 1\nname: b\n", "3: name: is there twice, first in line 1; remove one"),
    (
        "duplicate key in a table",
        "table:\n  a: 1\n  'a': 2\n",
        "3: table.a: is there twice, first in line 2; remove one",
    ),
    (
        "bare no as text",
        "name: no\n",
        "1: name: must be text, but YAML reads true or false (a bare yes, no, on or off is",
    ),
    ("bare on as text", "name: on\n", "; put quotes round it"),
    ("base-60 as text", "name: 12:30\n", "(digits with colons are a base-60 number to it); put quotes round it"),
    ("base-60 as number", "count: 12:30\n", "1: count: YAML reads digits with colons as a base-60 number; write plain"),
    ("octal", "count: 010\n", "1: count: YAML reads this as octal, hexadecimal or binary; write plain decimal digits"),
    ("hexadecimal", "count: 0x10\n", "1: count: YAML reads this as octal"),
    ("far too many digits", f"count: {'9' * 5000}\n", "1: count: has too many digits; give a smaller number"),
    ("number as text", "name: 5\n", "1: name: must be text, but YAML reads a whole number; put quotes round it"),
    ("date as text", "name: 2026-01-31\n", "1: name: must be text, but YAML reads a date; put quotes round it"),
    (
        "true as number",
        "count: true\n",
        "1: count: must be a whole number, but YAML reads true or false; write a whole",
    ),
    ("quoted number", "count: '5'\n", "1: count: must be a whole number, but YAML reads text; remove the quotes"),
    (
        "exponent without point, where there may be one",
        "share: 1e-6\n",
        "1: share: must be a number, but YAML reads text (a power of ten needs a point); write 1.0e-6",
    ),
    ("exponent without point", "count: 1e3\n", "1: count: must be a whole number, but YAML reads text"),
    (
        "number as flag",
        "flag: 1\n",
        "1: flag: must be true or false, but YAML reads a whole number; write true or false",
    ),
    ("text as float", "weight: heavy\n", "1: weight: must be a number, but YAML reads text"),
    ("infinite float", "weight: .inf\n", "1: weight: is not finite; give a number"),
    ("nan", "weight: .nan\n", "1: weight: is not finite; give a number"),
    ("base-60 float", "weight: 1:30.5\n", "1: weight: YAML reads this in another base than ten"),
    ("octal float", "weight: 010\n", "1: weight: YAML reads this in another base than ten"),
    ("empty value", "name:\n", "1: name: has no value; give text or remove the key"),
    ("empty path", "file: ''\n", "1: file: is empty; name a path"),
    ("list as text", "name: [a]\n", "1: name: must be text, but YAML reads a list; write text here"),
    ("text as list", "names: a\n", "1: names: must be a list, but YAML reads text; write a list here"),
    ("text as mapping", "table: a\n", "1: table: must be a mapping, but YAML reads text"),
    ("list as struct", "inner: [1]\n", "1: inner: must be a mapping, but YAML reads a list"),
    ("neither scalar", "scalar: yes\n", "1: scalar: must be text or a number, but YAML reads true or false"),
    ("neither branch", "either: {a: 1}\n", "1: either: must be a whole number or a list, but YAML reads a mapping"),
    ("item of a list", "names:\n- a\n- 5\n", "3: names[1]: must be text, but YAML reads a whole number"),
    ("value of a table", "table:\n  a: x\n", "2: table.a: must be a whole number"),
    ("pair of three", "pair: [1, 2, 3]\n", "1: pair: has 3 entries; give exactly 2"),
    ("literal", "mode: fats\n", "1: mode: must be one of fast, slow; did you mean 'fast'?"),
    ("literal of another type", "mode: off\n", "1: mode: must be one of fast, slow, but YAML reads true or false"),
    ("enum", "colour: blue\n", "1: colour: must be one of red, green; choose one"),
    ("ge", "port: 0\n", "1: port: is too small; give 1 or more"),
    ("le", "port: 65536\n", "1: port: is too large; give 65535 or less"),
    ("gt", "share: 0\n", "1: share: is too small; give more than 0"),
    ("lt", "share: 1.0\n", "1: share: is too large; give less than 1"),
    ("min_length", "short: ''\n", "1: short: is too short; give 1 or more characters"),
    ("max_length", "short: abcd\n", "1: short: is too long; give at most 3 characters"),
    ("pattern", "code: A\n", "1: code: does not match the pattern ^[a-z]+$; change it so that it does"),
    ("too few", "few: []\n", "1: few: has 0 entries; give 1 or more"),
    ("too many", "few: [1, 2, 3]\n", "1: few: has 3 entries; give at most 2"),
    ("own rule", "even: 3\n", "1: even: is odd; give an even number"),
    ("rule between fields", "inner:\n  low: 11\n", "2: inner.low: is above 'high'; swap them"),
    ("anchor", "name: &a x\n", "1: anchor &a: anchors and aliases are not read; write the value out"),
    ("alias", "name: &a x\ncode: *a\n", "2: alias *a: anchors and aliases are not read; write the value out"),
    ("merge key", "inner: {<<: {low: 1}}\n", "1: inner: merge keys (<<) are not read; write the keys out"),
    ("custom tag", "name: !secret x\n", "1: tag !secret: tags are not read; remove it and quote what is meant as text"),
    (
        "python tag",
        "name: !!python/name:os.system ''\n",
        "1: tag tag:yaml.org,2002:python/name:os.system: tags are not",
    ),
    ("core tag", "count: !!int '3'\n", "1: tag tag:yaml.org,2002:int: tags are not read"),
    ("second document", "name: a\n---\nname: b\n", "2: a second document begins here; keep one document a file"),
    ("empty file", "", " is empty; start from an example in config/"),
    ("comments only", "# nothing\n", " is empty; start from an example in config/"),
    ("null document", "---\n", " is empty; start from an example in config/"),
    ("list document", "- a\n", "1: must be a mapping, but YAML reads a list"),
    ("not YAML", "name: [a\ncount: 1\n", "2: is not YAML ("),
    ("tab indentation", "inner:\n\tlow: 1\n", "2: is not YAML ("),
    ("undefined alias", "name: *b\n", "1: alias *b: anchors and aliases are not read"),
    (
        "key that is no text",
        "table: {5: 1}\n",
        "1: table: a key must be text, but YAML reads a whole number; put quotes round it",
    ),
    ("key that is a bare no", "no: 1\n", "1: a key must be text, but YAML reads true or false; put quotes round it"),
    ("key that is a list", "? [a]\n: 1\n", "1: a key must be text, but YAML reads a list; check the brackets"),
    ("escaped control character", 'name: "a\\0b"\n', "1: has a control character; remove it"),
    ("half of a surrogate pair", 'name: "\\ud800"\n', "1: has a control character; remove it"),
    ("escape beyond Unicode", 'name: "\\UFFFFFFFF"\n', " has an escape or a number that YAML cannot hold"),
    ("raw control character", "count: 1\nname: a\x01\n", "2: has a character that YAML does not allow; remove it"),
    ("not UTF-8", b"count: 1\nname: \xff\n", "2: is not UTF-8; save the file as UTF-8"),
    ("nested too deeply", "names: " + "[" * 5000, "1: nested deeper than 32 levels; flatten it"),
    (
        "too large",
        "#" * (MAX_FILE_BYTES + 1),
        " is larger than 1048576 bytes; move what makes it long to a file of its own",
    ),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_with_its_line_and_a_way_out(
    wrong: Callable[..., list[str]], content: str | bytes, expected: str
) -> None:
    found = wrong(content)
    assert any(expected in problem for problem in found), found


def test_missing_keys_are_named_where_they_belong(wrong: Callable[..., list[str]]) -> None:
    assert wrong("# a comment\ninner:\n  high: 3\n", Strict) == [
        "2: inner.low: is missing; add it (a whole number)",
        "2: name: is missing; add it (text)",
    ]


def test_a_rule_between_fields_is_not_asked_of_fields_that_are_wrong(wrong: Callable[..., list[str]]) -> None:
    assert wrong("inner:\n  low: 11\n  high: x\n") == [
        "3: inner.high: must be a whole number, but YAML reads text; write a whole number here"
    ]


@pytest.mark.parametrize("secret", ["73519", "7351.9", "0o73519", "'73519'", "73519x", "735:19", "[73519.5]"])
@pytest.mark.parametrize("key", ["either", "flag", "port", "table", "mode", "few"])
def test_no_problem_repeats_a_value(wrong: Callable[..., list[str]], key: str, secret: str) -> None:
    for problem in wrong(f"{key}: {secret}\nzzz: 1\n"):
        assert "735" not in problem


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, expected in (
        ("none.yaml", "there is no such file; check the path"),
        (".", "is a directory; name a YAML file"),
        ("pipe", "is not a regular file; name a YAML file"),
        ("a\0b", "cannot be read (no valid path); check the path"),
        ("a" * 300, "cannot be read (File name too long); check the path"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, Outer)
        assert str(caught.value) == f"{tmp_path / name}: {expected}"


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("name: a\n")

    def refuse(*_: object, **__: object) -> None:  # the tests may run as root, who reads everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"may not be read by this user; change its owner or mode"):
        load(path, Outer)


def test_a_byte_order_mark_is_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\ncount: 2\r\n")
    assert load(path, Outer) == Outer(name="a", count=2)


def test_examine_keeps_what_is_good_and_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("name: a\ninner:\n  low: 3\ncount: x\n")
    found = examine(path, Outer)
    assert found.value is None
    assert found.fields == {"name": "a", "inner": Inner(low=3)}
    assert found.at(("inner", "low", 4), "is low; raise it") == f"{path}:3: is low; raise it"
    assert found.at(("zzz",), "is not there; add it") == f"{path}:1: is not there; add it"


_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
_INTS = st.integers(-(10**30), 10**30)


@given(
    value=st.fixed_dictionaries(
        {},
        optional={
            "name": _TEXTS,
            "count": _INTS,
            "weight": st.floats(allow_nan=False, allow_infinity=False),
            "flag": st.booleans(),
            "maybe": st.none() | _INTS,
            "either": _INTS | st.lists(_INTS),
            "names": st.lists(_TEXTS),
            "pair": st.tuples(_INTS, _INTS).map(list),
            "table": st.dictionaries(_TEXTS, _INTS),
            "inner": st.fixed_dictionaries({"low": st.integers(-100, 10)}),
            "colour": st.sampled_from(["red", "green"]),
        },
    )
)
def test_whatever_yaml_writes_and_reads_back_alike_is_loaded_alike(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    path = tmp_path_factory.getbasetemp() / "property.yaml"
    path.write_text(text, encoding="utf-8")
    assert yaml.safe_load(text) == value
    assert load(path, Outer) == msgspec.convert(value, Outer)
