"""The worked example of docs/python.md runs, and prints what the document says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS
from tests.docs.example_round import ROOT
from tests.nodes.house import Site, at_work, make_site, short_directory

pytest.importorskip("pandas", reason="the extra 'results' is not installed")

TEXT = (DOCS / "python.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(yaml|python|text)\n(.*?)```", re.DOTALL)
SEEDS = {"alice": 1, "bob": 2, "charlie": 3}
SOURCES = """\
sources:
  systolic: {{bounds: [80, 200], synthetic: {{seed: {seed}, records: 40}}}}
  sex: {{categories: [female, male], synthetic: {{seed: 1{seed}, records: 40}}}}
"""


def blocks(language: str) -> list[str]:
    return [block for found, block in BLOCK.findall(TEXT) if found == language]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hospital with the document's study, and three practices with made-up records."""
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)
    (study,) = blocks("yaml")
    with short_directory() as directory:
        site = make_site(directory, dict.fromkeys(SEEDS, 0), study)
        for name, path in site.patients.items():
            text = re.sub(r"sources:\n.*\n", SOURCES.format(seed=SEEDS[name]), path.read_text())
            path.write_text(text.replace("policy: {", "policy: {records: 40, "))
        yield site


def run_example(socket: Path) -> str:
    """What the document's program prints, from the first block to the last."""
    program = "\n".join(blocks("python")).replace('"hospital.sock"', repr(str(socket)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=socket.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_example_prints_what_the_document_says(site: Site) -> None:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()), asyncio.timeout(60):
        printed = await asyncio.to_thread(run_example, hospital.config.admin)
    lines = printed.splitlines()
    for block in blocks("text"):
        for line in block.splitlines():
            assert line in lines, printed
    assert any(re.fullmatch(r"(inviting|sharing|collecting): waiting for [123] of 3", line) for line in lines)
