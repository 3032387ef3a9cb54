"""The JSON schemas of config/schema are those of the structs, every example keeps to its schema, and mistakes do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mpc.errors import CohortiumError
from nodes.commands.config import ROLES, schema_for
from nodes.config import check_hospital, check_patient, check_relay
from nodes.studies import load_study

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLES = sorted(CONFIG.rglob("*.yaml"))
DIRECTORY = {"studies": "study"}

CHECK: dict[str, Callable[[Path], object]] = {
    "hospital": check_hospital,
    "patient": check_patient,
    "relay": check_relay,
    "study": lambda path: load_study(path, "demo.example"),
}


def committed(role: str) -> Any:
    return json.loads((CONFIG / "schema" / f"{role}.json").read_text(encoding="utf-8"))


def validator(role: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(committed(role))


def role_of(example: Path) -> str:
    return DIRECTORY.get(example.parent.name, example.parent.name)


@pytest.mark.parametrize("role", ROLES)
def test_the_committed_schema_is_that_of_the_program(role: str) -> None:
    assert committed(role) == schema_for(role), f"run: cohortium config schema {role} > config/schema/{role}.json"
    jsonschema.Draft202012Validator.check_schema(committed(role))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_keeps_to_the_schema_that_its_first_line_names(example: Path) -> None:
    first, _, text = example.read_text(encoding="utf-8").partition("\n")
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (example.parent / named).resolve() == CONFIG / "schema" / f"{role_of(example)}.json"
    validator(role_of(example)).validate(yaml.safe_load(text))


def test_there_is_a_basic_and_an_advanced_example_of_each_role() -> None:
    found = {(path.parent.name, path.stem) for path in EXAMPLES if path.parent.name != "studies"}
    assert found == {(role, kind) for role in ROLES if role != "study" for kind in ("basic", "advanced")}


MISTAKES: list[tuple[str, str, str]] = [
    ("hospital", "patients:", "patient:"),
    ("hospital", "name: general\n", ""),
    ("hospital", '"127.0.0.1:7000"', "7000"),
    ("hospital", '"127.0.0.1:7000"', '"127.0.0.1"'),
    ("hospital", "https://127.0.0.1:7001", "http://127.0.0.1:7001"),
    ("hospital", "studies: studies", "studies: ''"),
    ("hospital", "studies: studies", "studies: studies\nretries: 11"),
    ("hospital", "studies: studies", "studies: studies\nencryption_keys: {every: 59}"),
    ("hospital", "studies: studies", "studies: studies\nstore: mysql://x"),
    ("patient", "bounds: [0, 300]", "bounds: [0, 300, 500]"),
    ("patient", "bounds: [0, 300]", "bounds: [0]"),
    ("patient", "literal: 128", "literal: {a: 1}"),
    ("patient", "literal: 128", "literal: []"),
    ("patient", "sha256:0", "sha1:0"),
    ("patient", "policy:", "topology: star\npolicy:"),
    ("patient", "policy:", "limits: {connection: 5}\npolicy:"),
    ("patient", "policy:", "policy:\n  floor: 2"),
    ("relay", "identity:", "identity:\n  ca: x"),
    ("relay", "listen:", "recipients: hospital/general\nlisten:"),
    ("relay", "listen:", "quota: {sender_bytes: 0}\nlisten:"),
    ("study", "bounds: [0, 300]", "bounds: [0, high]"),
    ("study", "kind: sum", "king: sum"),
    ("study", "cohort:", "publish: everybody\ncohort:"),
]


@pytest.mark.parametrize(("role", "before", "after"), MISTAKES)
def test_a_mistake_is_one_for_the_schema_and_for_the_program(role: str, before: str, after: str, tmp_path: Path) -> None:
    example = CONFIG / "hospital" / "studies" / "blood-pressure.yaml" if role == "study" else CONFIG / role / "basic.yaml"
    text = example.read_text(encoding="utf-8").replace(before, after, 1)
    assert text != example.read_text(encoding="utf-8")
    assert not validator(role).is_valid(yaml.safe_load(text))
    path = tmp_path / "mistaken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CohortiumError, match=r"mistaken\.yaml:\d+:"):
        CHECK[role](path)


def test_a_key_is_told_with_its_meaning_its_limits_and_its_default() -> None:
    key = committed("patient")["$defs"]["EncryptionKeyRules"]["properties"]["every"]
    assert key == {
        "type": "integer",
        "minimum": 60,
        "maximum": 604800,
        "description": "After which rounds are promised a new one.",
        "default": 86400,
    }
