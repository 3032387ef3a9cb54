"""An audit log as a file that anybody can check who has the node's certificate, or its authority's.

JSON lines, in these very bytes:

    header     {"audit":1,"node":URI,"exported":SECONDS,"erased_to":N,"anchor":HEX,"last":N,"certificates":[BASE64,...]}
    line       {"number":N,"digest":HEX,"entry":TEXT}         TEXT and digests as in `nodes.store.audit`
      erased   {"number":N,"digest":HEX,"erased":HEX}         SHA-256 of the text that stood there
    signature  {"signature":HEX}                              r ‖ s over ("audit-export", header ‖ 0A ‖ digest of the last line)

`erased_to` is the number of the last line that was erased from the begin, `anchor` its digest; 0 and zeros where none was.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from mpc.errors import CohortiumError, TemporaryError, UsageError
from mpc.identity import Identity
from mpc.signature import sign_digest, tagged_digest, verify_digest
from nodes.audit import PAGE, verify
from nodes.store.audit import AuditEvent, AuditLine, ChainBroken, Kept, Walk, text
from nodes.store.base import AuditStore
from pki.certificate import read
from pki.files import read_certificates
from pki.node import NodeKey
from pki.trust import TrustStore, check_leaf

_LINE = re.compile(rb'\{"number":([1-9]\d{0,17}),"digest":"([0-9a-f]{64})","(?:entry":(\{.*\})|erased":"([0-9a-f]{64})")\}\n')
_SIGNATURE = re.compile(rb'\{"signature":"([0-9a-f]{128})"\}\n')
_MAX_LINE = 1024 * 1024


class ExportRefused(CohortiumError):
    """A file that is not what a node exported. The text says why."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    audit: int
    node: str
    exported: int
    erased_to: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    anchor: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    last: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    certificates: tuple[bytes, ...]


class _Entry(msgspec.Struct, frozen=True):
    at: float
    event: str
    study: str
    content: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Export:
    """An export that was checked."""

    node: Identity
    exported: int
    """Unix seconds, by the node's clock."""
    erased_to: int
    """Number of the last line that had been erased from the begin; 0 for none."""
    last: int
    """Number of the last line."""
    digest: bytes
    """Its digest."""


async def export(store: AuditStore, key: NodeKey, now: float) -> AsyncIterator[bytes]:
    """The file, in pieces. The log is verified first: a node signs nothing that it has not written.

    Raises ChainBroken, StoreError, and TemporaryError when lines are erased meanwhile: what was given until then is no export.
    """
    head = await verify(store)
    header = msgspec.json.encode(_Header(1, key.identity.uri, int(now), head.erased_to, head.anchor.hex(), head.last, key.chain))
    yield header + b"\n"
    walk = Walk(head.erased_to, head.anchor)
    try:
        while walk.number < head.last and (page := await store.audit(walk.number, min(PAGE, head.last - walk.number))):
            yield await asyncio.to_thread(_lines, walk, page)
        walk.finish(head.last)
    except ChainBroken:
        if await store.audit(head.last, 1, event=AuditEvent.ERASED):
            raise TemporaryError("lines were erased while the log was exported; export it again") from None
        raise
    if walk.digest != head.digest:
        raise ChainBroken(head.last, "the log was changed while it was exported")
    signature = sign_digest(key.private_key, _signed(header, walk.digest))
    yield b'{"signature":"%s"}\n' % signature.hex().encode()


def check_export(
    path: Path, *, certificate: Path | None = None, authority: Path | None = None, after: Export | None = None
) -> Export:
    """Checks every line of an export, and its signature.

    One of the PEM files is given: `certificate` is the node's own, of the time of the export; with `authority`, the root, the
    certificate in the export is checked at the time that it names. `after` is an earlier export, which this one must go on from.

    Raises ChainBroken for the first line that is wrong, ExportRefused, and IdentityError for files and certificates.
    """
    try:
        with path.open("rb") as file:
            raw = file.readline(_MAX_LINE)
            header = _header(path, raw)
            digest, signature = _walk(path, file, header, after)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    node, public_key = _signer(header, certificate, authority)
    if not verify_digest(public_key, signature, _signed(raw.removesuffix(b"\n"), digest)):
        raise ExportRefused(
            f"{path} is not what this node signed: its first or its last line was changed, or lines were changed together with "
            f"their digests; or the node had another certificate when it exported it, so give the authority's instead"
        )
    if node.uri != header.node or (after is not None and after.node != node):
        raise ExportRefused(f"{path} is of {header.node}, signed by {node}; compare exports of one node, by its certificate")
    return Export(node, header.exported, header.erased_to, header.last, digest)


def _signed(header: bytes, digest: bytes) -> bytes:
    return tagged_digest("audit-export", header + b"\n" + digest)


def _lines(walk: Walk, page: Sequence[Kept]) -> bytes:
    written = []
    for kept in page:
        walk.take(kept.number, kept.body, kept.line, lambda _digest: True)
        said = b'"entry":%s' % text(kept.line, kept.salt) if kept.line.event else b'"erased":"%s"' % kept.body.hex().encode()
        written.append(b'{"number":%d,"digest":"%s",%s}\n' % (kept.number, walk.digest.hex().encode(), said))
    return b"".join(written)


def _header(path: Path, raw: bytes) -> _Header:
    try:
        header = msgspec.json.decode(raw, type=_Header)
    except ValueError:  # msgspec's own errors, and UnicodeDecodeError
        header = None
    if header is None or header.audit != 1:
        raise ExportRefused(f"{path} does not begin as an exported audit log does; check the path")
    return header


def _walk(path: Path, file: BinaryIO, header: _Header, after: Export | None) -> tuple[bytes, bytes]:
    """The last line's digest, and the signature."""
    if after is not None and after.last < header.erased_to:
        raise ExportRefused(
            f"{path} begins after line {header.erased_to}, and the earlier export ends with line {after.last}: what was in "
            f"between has been erased, so nobody can tell whether one goes on from the other"
        )
    walk = Walk(header.erased_to, bytes.fromhex(header.anchor))
    _compare(walk, after)
    for raw in iter(lambda: file.readline(_MAX_LINE), b""):
        signature = _SIGNATURE.fullmatch(raw)
        if signature is not None:
            _finish(walk, header, after)
            if file.read(1):
                raise ExportRefused(f"{path} goes on after its signature; what follows is of no worth: remove it")
            return walk.digest, bytes.fromhex(signature[1].decode())
        _take(walk, raw)
        _compare(walk, after)
    _finish(walk, header, after)
    raise ExportRefused(f"{path} has no signature at its end: it was cut off; have it exported again")


def _take(walk: Walk, raw: bytes) -> None:
    found = _LINE.fullmatch(raw)
    if found is None:
        raise ChainBroken(walk.number + 1, "it cannot be read")
    number, digest, said, erased = found.groups()
    body = hashlib.sha256(said).digest() if erased is None else bytes.fromhex(erased.decode())
    try:
        entry = msgspec.json.decode(said or b'{"at":0,"event":"","study":"","content":{}}', type=_Entry)
    except ValueError:  # msgspec's own errors, and UnicodeDecodeError
        raise ChainBroken(int(number), "it cannot be read") from None
    line = AuditLine(entry.at, entry.event, entry.study, bytes(entry.content))
    walk.take(int(number), body, line, lambda worked_out: worked_out.hex().encode() == digest)


def _finish(walk: Walk, header: _Header, after: Export | None) -> None:
    walk.finish(header.last)
    if after is not None and walk.number < after.last:
        raise ChainBroken(walk.number + 1, f"it is missing: the earlier export has {after.last} lines")


def _compare(walk: Walk, after: Export | None) -> None:
    if after is not None and walk.number == after.last and walk.digest != after.digest:
        raise ChainBroken(after.last, "it, or one before it, is not the one of the earlier export")


def _signer(header: _Header, certificate: Path | None, authority: Path | None) -> tuple[Identity, ec.EllipticCurvePublicKey]:
    if certificate is not None:
        der = read_certificates(certificate)[0]
        return check_leaf(der), read(der).public_key
    assert authority is not None, "one of the two is given"
    credential = TrustStore.load(authority).verify(header.certificates, header.exported)
    return credential.identity, credential.public_key
