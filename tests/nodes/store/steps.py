"""Steps of made-up rounds."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from nodes.store.audit import AuditEvent, AuditLine
from nodes.store.base import Begun, Closed, Posted, Step

NODE = "spiffe://ward/patient/alice"
OTHER_NODE = "spiffe://ward/patient/bob"
NOW = 1_800_000_000.0
CLOSED = Closed(NOW + 9, "released", "", taken=b"\x01" * 64, result=b"sealed result", summary=b'{"n":3}')


def round_id(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()[:16]


ONE, TWO, THREE = round_id(1), round_id(2), round_id(3)


def begun(number: int = 1, *, sealed: bytes = b"sealed seed") -> Begun:
    return Begun(NOW + number, "patient", f"study-{number}", sealed)


def begin(number: int = 1) -> Step:
    return Step(round_id(number), begun=begun(number))


def event(number: int = 1, content: bytes = b"sealed event") -> Step:
    return Step(round_id(number), event=content)


def close(number: int = 1, closed: Closed = CLOSED) -> Step:
    return Step(round_id(number), closed=closed)


def closed_at(at: float) -> Closed:
    return replace(CLOSED, at=at)


def posted(number: int, envelope: bytes = b"envelope") -> Posted:
    return Posted(number, OTHER_NODE, 5, "https://127.0.0.1:8443", NOW + 60, envelope)


def line(at: float, event: AuditEvent = AuditEvent.CONSENTED) -> AuditLine:
    return AuditLine(at, event, "study-1", b'{"reason":""}')
