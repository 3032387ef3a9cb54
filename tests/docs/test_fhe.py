"""docs/fhe.md says of parts, statuses and recipes what the code does."""

from __future__ import annotations

import re

from fhe.bundle import MANIFEST, PROBE, QUANTISER, Audience
from fhe.concrete.options import CIRCUIT, NATIVE, OPTIONS, PROGRAM
from fhe.errors import STATUS
from fhe.train.job import RECIPES
from tests.docs.blocks import DOCS
from tests.fhe.house import bundle

TEXT = (DOCS / "fhe.md").read_text(encoding="utf-8")


def test_every_status_of_a_refusal_is_told_and_no_other() -> None:
    told = re.findall(r"^\| .* \| (4\d\d) \|$", TEXT, re.MULTILINE)
    assert {int(status) for status in told} == set(STATUS.values())


def test_every_part_of_a_bundle_is_told_with_whose_it_is() -> None:
    told = dict(re.findall(r"^\| `([a-z]+\.[a-z]+)`( \(s\))? \|", TEXT, re.MULTILINE))
    assert set(told) == {MANIFEST, QUANTISER, PROGRAM, CIRCUIT, NATIVE, OPTIONS, PROBE}
    for name, part in bundle("xgboost").manifest.parts.items():
        assert (part.audience is Audience.SERVER) == (told[name] == " (s)"), name


def test_every_recipe_is_told() -> None:
    assert all(f"`{recipe}`" in TEXT for recipe in RECIPES)
