"""What the documents say of bytes, fields, states, answers and numbers is what the code does."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from enum import Enum
from typing import Any

import msgspec
import pytest

import mpc
from mpc.errors import Answer
from mpc.messages import RULES, AbortCode, Kind
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.machine import Machine
from mpc.rounds.patient import PatientRound
from mpc.statistics import FAMILIES
from mpc.wire import Struct
from nodes.outbox import FINAL
from nodes.transport.inbox import STATUS
from tests.docs.blocks import BLOCKS, DOCS, names, rewritten
from tests.docs.example_round import HOSPITAL, NOW, PATIENTS, ROOT, play

DOCUMENTS = ("protocol.md", "threat-model.md", "journey.md")
TEXT = {name: (DOCS / name).read_text(encoding="utf-8") for name in DOCUMENTS}
PROTOCOL = TEXT["protocol.md"]
REMAKE = "run: python -m tests.docs.blocks"


def table(text: str, name: str) -> list[list[str]]:
    """The cells below the heading of the table that follows `<!-- table NAME -->`, without their backticks."""
    (found,) = re.findall(rf"<!-- table {re.escape(name)} -->\n\n?((?:\|.*\n)+)", text)
    rows = [[cell.strip().replace("`", "") for cell in line.strip("|\n").split("|")] for line in found.splitlines()]
    return rows[2:]


def structs() -> dict[str, type[Struct]]:
    """Everything in `mpc` that has an encoding."""
    for module in pkgutil.walk_packages(mpc.__path__, "mpc."):
        importlib.import_module(module.name)
    return {kind.__name__: kind for kind in Struct.__subclasses__() if kind.__module__.startswith("mpc.")}


def described(kind: Any) -> str:
    """A field's type in the words of the document."""
    match kind:
        case msgspec.inspect.IntType(ge=None, le=None):
            return "int"
        case msgspec.inspect.IntType():
            return f"int, {_range(kind.ge, kind.le)}"
        case msgspec.inspect.BytesType() | msgspec.inspect.StrType():
            word = "bin" if isinstance(kind, msgspec.inspect.BytesType) else "str"
            return _sized(word, kind.min_length, kind.max_length)
        case msgspec.inspect.BoolType():
            return "bool"
        case msgspec.inspect.NoneType():
            return "nil"
        case msgspec.inspect.EnumType():
            return str(kind.cls.__name__)
        case msgspec.inspect.StructType():
            return str(kind.cls.__name__)
        case msgspec.inspect.VarTupleType():
            return _sized("array", kind.min_length, kind.max_length) + f" of {described(kind.item_type)}"
        case msgspec.inspect.UnionType():
            return " or ".join(sorted(map(described, kind.types)))
    raise AssertionError(f"the documents have no word for {kind}")


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"{low} to {high}" if high < 1000 else f"{low} to 2^{high.bit_length() - 1}"


def _sized(word: str, low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return word
    return f"{word}({high})" if low == high else f"{word}({low or 0} to {high})"


def events(machine: type[Machine]) -> list[tuple[str, str]]:
    """The pairs of a machine's table, an event type or a message's kind by its name."""
    return [(str(state), what.purpose if isinstance(what, Kind) else what.__name__) for state, what in machine.transitions]


def refusals() -> set[tuple[str, str]]:
    """(reason, answer) of every MessageRefused that the code raises, found in its source."""
    found = set()
    for file in [*(ROOT / "mpc").rglob("*.py"), ROOT / "nodes" / "rounds.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="MessageRefused"), args=[answer, ast.Constant(value=str(reason))]):
                    words = [part.attr for part in ast.walk(answer) if isinstance(part, ast.Attribute) and part.attr.isupper()]
                    found |= {(reason, str(Answer[word])) for word in words}
                case ast.Call(func=ast.Name(id="_refuse"), args=[ast.Constant(value=str(reason))]) if file.name == "roster.py":
                    found.add((reason, str(Answer.REFUSED)))
    return found


# ---- bytes


@pytest.mark.parametrize("document", BLOCKS)
def test_the_bytes_in_a_document_are_those_that_the_code_makes(document: str) -> None:
    assert names(TEXT[document]) == list(BLOCKS[document]), f"{document} must hold each of its blocks once, in order"
    assert rewritten(document, TEXT[document]) == TEXT[document], f"{document} shows other bytes than the code makes; {REMAKE}"


def test_the_sentences_of_the_journey_speak_of_its_bytes() -> None:
    blocks = "".join(make() for make in BLOCKS["journey.md"].values())
    text = re.sub(r"```.*?```", "", TEXT["journey.md"], flags=re.DOTALL)
    spoken = set(re.findall(r"(?<![\w.])\d{3,}(?![\w.]*\w)", text))
    assert spoken
    assert {number for number in spoken if re.search(rf"(?<!\w){number}(?!\w)", blocks) is None} == set()


def test_the_example_is_a_whole_round_and_the_same_each_time() -> None:
    first = play()
    play.cache_clear()
    again = play()
    assert [message.raw for message in again.messages] == [message.raw for message in first.messages]
    assert first.released.result.plain() == {"heart_rate": {"sum": 72 + 64 + 81}}
    assert len(first.messages) == 3 + 3 + 3 + 6 + 3 + 3 + 3 + 3
    assert [patient.ended for patient in first.patients.values()] == [True] * len(PATIENTS)


def test_no_part_of_the_example_depends_on_the_time_of_the_test() -> None:
    invitation = next(m for m in play().messages if m.envelope.kind is Kind.INVITATION and m.envelope.sender.name == HOSPITAL)
    assert invitation.content.deadline == NOW + 60  # type: ignore[attr-defined]


# ---- messages


@pytest.mark.parametrize("name", sorted(structs()))
def test_the_fields_of_a_struct_are_those_of_the_document(name: str) -> None:
    info = msgspec.inspect.type_info(structs()[name])
    assert isinstance(info, msgspec.inspect.StructType)
    written = [(field, kind) for _, field, kind, _ in table(PROTOCOL, f"fields {name}")]
    assert written == [(field.name, described(field.type)) for field in info.fields]


def test_no_struct_is_described_that_does_not_exist() -> None:
    assert set(re.findall(r"<!-- table fields (\w+) -->", PROTOCOL)) == set(structs())


def test_fields_are_numbered_from_zero() -> None:
    for name in structs():
        numbers = [row[0] for row in table(PROTOCOL, f"fields {name}")]
        assert numbers == [str(number) for number in range(len(numbers))]


def test_the_kinds_are_those_of_the_document() -> None:
    def roles(given: frozenset[Any]) -> str:
        return " or ".join(sorted(given))

    assert table(PROTOCOL, "kinds") == [
        [
            str(int(kind)),
            kind.purpose,
            roles(rule.senders),
            roles(rule.recipients),
            str(rule.binding),
            "yes" if rule.sealed else "no",
            "yes" if rule.introduces else "no",
            rule.payload.__name__,
        ]
        for kind, rule in RULES.items()
    ]


# ---- behaviour


def test_the_statistics_are_those_of_the_code() -> None:
    written = [(kind, seen) for kind, _, seen in table(PROTOCOL, "statistics")]
    assert written == [(kind, family.reveals) for kind, family in FAMILIES.items()]


@pytest.mark.parametrize(("name", "machine"), [("hospital", HospitalRound), ("patient", PatientRound)])
def test_the_state_table_is_that_of_the_document(name: str, machine: type[Machine]) -> None:
    written = [(state.strip(), event) for states, event, *_ in table(PROTOCOL, f"states {name}") for state in states.split(",")]
    assert len(written) == len(set(written)), "a transition is described twice"
    assert sorted(written) == sorted(events(machine))


@pytest.mark.parametrize(("name", "machine"), [("hospital", HospitalRound), ("patient", PatientRound)])
def test_the_states_that_a_transition_leads_to_exist(name: str, machine: type[Machine]) -> None:
    states = {str(state) for state in type(next(iter(machine.transitions))[0])}
    following = {state.strip() for row in table(PROTOCOL, f"states {name}") for state in row[2].split(",")}
    assert following <= states | {"unchanged"}


def test_the_answers_are_those_of_the_document() -> None:
    written = {word: (int(status), final) for word, status, final, _ in table(PROTOCOL, "answers")}
    assert written == {str(a): (STATUS[a], "yes" if a in FINAL else "no") for a in Answer}


def test_the_abort_codes_are_those_of_the_document() -> None:
    assert [row[0] for row in table(PROTOCOL, "abort-codes")] == [str(code) for code in AbortCode]


def test_every_check_is_in_the_document_with_its_answer() -> None:
    written = {(row[1], answer.strip()) for row in table(PROTOCOL, "checks") for answer in row[2].split(" or ")}
    assert written == refusals()


def test_the_numbers_are_those_of_the_code() -> None:
    for name, value, *_ in table(PROTOCOL, "constants"):
        module, _, attribute = name.rpartition(".")
        try:
            holder: Any = importlib.import_module(module)
        except ModuleNotFoundError:  # the default of a field
            module, _, owner = module.rpartition(".")
            holder = getattr(importlib.import_module(module), owner)()
        found = getattr(holder, attribute)
        found = str(found.value if isinstance(found, Enum) else found)
        assert value == found, f"{name} is {found}, docs/protocol.md says {value}"


# ---- references


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document: str) -> None:
    named = re.findall(r"`((?:mpc|nodes|pki|tests|scripts|docs|config|benchmarks)/[\w./-]+)`", TEXT[document])
    named += re.findall(r"\]\(((?!https?:)[\w./-]+)\)", TEXT[document])
    missing = [path for path in named if not ((ROOT / path).exists() or (DOCS / path).exists())]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_a_document_names_exist(document: str) -> None:
    defined = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", TEXT[document]))
    assert named - defined == set(), f"{document} names tests that are gone or called otherwise"


def test_the_places_of_the_journey_exist() -> None:
    for _, file, place, _ in table(TEXT["journey.md"], "places"):
        tree: ast.Module | ast.ClassDef = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        for part in place.split("."):
            named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
            found = [node for node in named if node.name == part]
            assert found, f"docs/journey.md: {file} has no {place}"
            if isinstance(found[0], ast.ClassDef):
                tree = found[0]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_a_document_lead_somewhere(document: str) -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT[document], re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    wanted = set(re.findall(r"\]\(#([\w-]+)\)", TEXT[document]))
    assert wanted <= anchors
