"""The table of parts counts what a round of the protocol needs."""

from __future__ import annotations

import pytest

from benchmarks import parts


def test_the_parts_of_a_small_round_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SECONDS_A_PART", 0.0)
    monkeypatch.setattr(parts, "DEFAULT_BITS", 2048)
    rows = {part.name: part for part in parts.parts(patients=4, length=100, largest_sum=4000)}
    assert rows["expand and add a seed"].times == 24  # four patients, three peers each, sent and received
    assert rows["seal a small message"].times == 36  # six for each patient, and twelve shares
    assert rows["TLS request, small"].times == 40  # the invitations besides
    assert (
        rows["verify a statement"].times == 48
    )  # two of each patient, by all five; the receipt by four, each signature on it by one
    assert all(part.seconds > 0 for part in rows.values())


def test_the_table_ends_with_the_work_of_all_nodes() -> None:
    rows = [parts.Part("one", 0.002, 3), parts.Part("two", 0.001, 4), parts.Part("  of which", 0.5, 0)]
    lines = parts.table(rows).splitlines()
    assert lines[1].split() == ["one", "2.000", "3", "6.00"]
    assert lines[-1].split() == ["all", "nodes", "together", "10.00"]
