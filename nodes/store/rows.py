"""What the stores have in common: how a row is read, and what is said when a step does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodes.store.audit import AuditLine, Kept
from nodes.store.base import Closed, ClosedRound, StoreError

AUDIT_COLUMNS = "number, at, event, study, content, salt, tag"


def kept_of(row: Sequence[Any]) -> Kept:
    """A row of the audit log, in the order of AUDIT_COLUMNS."""
    number, at, event, study, content, salt, tag = row
    return Kept(number, AuditLine(at, event, study, content), salt, tag)


def row_of(kept: Kept) -> tuple[Any, ...]:
    """The same the other way round."""
    line = kept.line
    return kept.number, line.at, line.event, line.study, line.content, kept.salt, kept.tag


def closed_round(
    round_id: bytes,
    opened: float,
    study: str,
    at: float,
    outcome: str,
    code: str,
    taken: bytes,
    result: bytes,
    summary: bytes,
) -> ClosedRound:
    """A row of a round that has ended."""
    return ClosedRound(round_id, opened, study, Closed(at, outcome, code, taken, result, summary))


def inconsistent(round_id: bytes, why: str) -> StoreError:
    """A step that does not fit what the store holds: a bug of the caller, and nothing is changed."""
    return StoreError("inconsistent", f"round {round_id.hex()} {why}")
