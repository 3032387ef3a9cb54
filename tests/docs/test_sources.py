"""Every example of docs/sources.md is one that the program reads, and its table has every kind of source."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from nodes.config import Policy
from nodes.sources import SourceConfig
from nodes.sources.duckdb_query import DuckDbQuery
from nodes.sources.json_file import MOST_BYTES
from nodes.yaml_struct import examine
from tests.docs.blocks import DOCS

TEXT = (DOCS / "sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the examples show of a patient's configuration."""

    sources: dict[str, SourceConfig]
    policy: dict[str, int] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_is_read(number: int, tmp_path: Path) -> None:
    path = tmp_path / "patient.yaml"
    path.write_text(BLOCKS[number])
    found = examine(path, Part)
    assert found.problems == ()
    assert found.value is not None
    assert found.value.sources
    assert set(found.value.policy) <= set(Policy.__struct_fields__)


def test_every_kind_is_in_the_table_and_has_an_example() -> None:
    (rows,) = re.findall(r"<!-- table kinds -->\n\n?((?:\|.*\n)+)", TEXT)
    kinds = re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)
    assert kinds == [field for field in SourceConfig.__struct_fields__ if field not in ("bounds", "categories", "field")]
    shown = "".join(BLOCKS)
    assert [kind for kind in kinds if f"{kind}:" not in shown] == ["synthetic"]


def test_the_numbers_are_those_of_the_program() -> None:
    assert f"up to {MOST_BYTES >> 20} MiB" in TEXT
    defaults = {field.name: field.default for field in msgspec.structs.fields(DuckDbQuery)}
    assert f"(seconds, default {defaults['timeout']})" in TEXT
