"""docs/onnx.md says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from fhe.ckks.plan import choose
from fhe.onnx.graph import OPERATORS
from nodes.cli import cohortium

TEXT = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")


def test_it_lists_the_operators_that_are_read() -> None:
    found = re.search(r"## What is read\n\n(.*?)\.\n\n", TEXT, re.DOTALL)
    assert found is not None
    assert tuple(found[1].replace("\n", " ").split(", ")) == OPERATORS


def test_it_says_how_many_levels_each_degree_has() -> None:
    for levels, degree in ((1, 4096), (2, 8192), (5, 8192), (6, 16384), (13, 16384), (14, 32768)):
        chosen = choose(levels, 1, 0)
        assert chosen is not None
        assert chosen.degree == degree


def test_its_commands_have_these_options() -> None:
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith("    cohortium ")]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line)[1:]
        command: click.Command = cohortium
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        command.make_context(line, words)
