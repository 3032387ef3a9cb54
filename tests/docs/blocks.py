"""The bytes in the documents: each block between `<!-- bytes NAME -->` and `<!-- end -->` is made by a function here.

    python -m tests.docs.blocks      writes every block into its document, from the top of the checkout

`test_documents.py` fails when a document holds other bytes than these functions make from the code as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_der_private_key

from mpc.expand import expand
from mpc.keys import KeyStatement
from mpc.messages import Consent, Invitation, Kind, PartialSum, Receipt, Roster, Share
from mpc.result import commitment
from mpc.ring import Ring
from mpc.secret import Secret
from mpc.sharing import own_share
from mpc.statement import Signed
from mpc.statistics import encode as encode_values
from mpc.statistics import plan
from mpc.wire import Struct, decode, encode
from nodes.store.audit import AuditEvent, audit_line, link
from nodes.store.audit import text as audit_text
from tests.docs.example_round import CSV, HOSPITAL, PATIENTS, ROOT, SOURCES, STUDY, VECTORS, ExampleRound, Message, play
from tests.mpc.parts import HEADER_FIELDS, Parts

S = TypeVar("S", bound=Struct)

DOCS = ROOT / "docs"
_BLOCK = re.compile(r"(<!-- bytes (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BYTES_A_LINE = 32


def _row(name: str, octets: bytes | str, remark: str = "") -> Iterator[str]:
    """A name and its bytes in hexadecimal, in as many lines as they need."""
    text = octets if isinstance(octets, str) else octets.hex()
    pieces = [text[at : at + 2 * _BYTES_A_LINE] for at in range(0, len(text), 2 * _BYTES_A_LINE)] or ["(empty)"]
    if remark:
        pieces[-1] += f"  {remark}"
    for piece in pieces:
        yield f"{name:<22}{piece}".rstrip()
        name = ""


def _text(*lines: str | Iterator[str]) -> str:
    flat = [line for item in lines for line in ([item] if isinstance(item, str) else item)]
    return "```text\n" + "\n".join(flat) + "\n```\n"


# ---- protocol.md


def envelope_fields() -> str:
    """The frozen Share of tests/vectors/envelope.json, field by field."""
    raw = bytes.fromhex("".join(field["bytes"] for field in VECTORS["good"][0]["fields"]))
    parts = Parts.split(raw)
    header = msgspec.msgpack.decode(parts.header)
    rows = [("version", raw[:1], ""), ("header length", raw[1:3], f"= {len(parts.header)}"), ("array of 8", parts.header[:1], "")]
    rows += [
        (f"  {name}", msgspec.msgpack.encode(value), _remark(value)) for name, value in zip(HEADER_FIELDS, header, strict=True)
    ]
    rows += [
        ("certificates", bytes([len(parts.chain)]), "none: a Share does not introduce"),
        ("wrapped length", len(parts.wrapped).to_bytes(2, "big"), f"= {len(parts.wrapped)}"),
        ("wrapped secret", parts.wrapped, ""),
        ("ciphertext length", len(parts.ciphertext).to_bytes(4, "big"), f"= {len(parts.ciphertext)}"),
        ("ciphertext", parts.ciphertext[:-16], ""),
        ("tag", parts.ciphertext[-16:], ""),
        ("signature r", parts.signature[:32], ""),
        ("signature s", parts.signature[32:], ""),
    ]
    assert b"".join(octets for _, octets, _ in rows) == raw
    lines, at = [f"offset  {'field':<22}bytes"], 0
    for name, octets, remark in rows:
        first, *more = _row(name, octets, remark)
        lines += [f"{at:6}  {first}", *(" " * 8 + line for line in more)]
        at += len(octets)
    return _text(*lines, f"{at:6}  end")


def _remark(value: object) -> str:
    if isinstance(value, int):
        return f"= {Kind(value).purpose}"
    return f'"{value}"' if isinstance(value, str) else ""


def envelope_opening() -> str:
    """Opening the same Share with the primitives alone."""
    raw = bytes.fromhex("".join(field["bytes"] for field in VECTORS["good"][0]["fields"]))
    parts, bob = Parts.split(raw), VECTORS["nodes"]["bob"]
    private_key = load_der_private_key(bytes.fromhex(bob["encryption_key_pkcs8"]), None)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    secret = private_key.decrypt(parts.wrapped, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), parts.header))
    round_key = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(bob["round_key_private"]))
    sender_key = msgspec.msgpack.decode(parts.header)[HEADER_FIELDS.index("round_key")]
    agreed = round_key.exchange(x25519.X25519PublicKey.from_public_bytes(sender_key))
    key = HKDF(hashes.SHA256(), 32, salt=None, info=parts.header).derive(secret + agreed)
    associated = raw[: len(raw) - 64 - len(parts.ciphertext) - 4]
    payload = AESGCM(key).decrypt(bytes(12), parts.ciphertext, associated)
    assert payload.hex() == VECTORS["good"][0]["payload"]
    digest = hashlib.sha256(b"cohortium/v1/share\0" + parts.signed_bytes).digest()
    return _text(
        _row("secret", secret, "RSA-OAEP, bob's key, label = header"),
        _row("agreed", agreed, "X25519, bob's round key and alice's"),
        _row("content key", key, "HKDF-SHA256"),
        f"{'associated data':<22}bytes 0 to {len(associated) - 1}",
        _row("payload", payload, ""),
        f"{'':<22}91 array of 1, c420 binary of 32 bytes: the seed",
        _row("digest", digest, "the message's name"),
        f'{"":<22}SHA-256("cohortium/v1/share" ‖ 00 ‖ bytes 0 to {len(raw) - 65})',
    )


def signed_statement() -> str:
    """The key statement of bob, in the example round."""
    consent = _consent(play(), "bob")
    statement = decode(consent.key_statement.body, KeyStatement)
    digest = hashlib.sha256(b"cohortium/v1/key-statement\0" + consent.key_statement.body).digest()
    return _text(
        f"{'body':<22}array of 5, {len(consent.key_statement.body)} bytes",
        f'{"  node":<22}"{statement.node}"',
        _row("  key_id", statement.key_id),
        f"{'  public_key':<22}{len(statement.public_key)} bytes, {statement.public_key[:8].hex()}...",
        f"{'  not_before':<22}{statement.not_before}",
        f"{'  not_after':<22}{statement.not_after}",
        _row("digest", digest),
        _row("signature", consent.key_statement.signature),
    )


# ---- journey.md


def audit_log() -> str:
    """Two lines of an export, of which the first was emptied since."""
    said = (
        audit_line(1_800_000_000.25, AuditEvent.RELOADED, certificate="5e0f"),
        audit_line(1_800_000_060.0, AuditEvent.DECLINED, "pulse", round="07a1", reason="2 rounds are open already"),
    )
    digest, lines = bytes(32), []
    for number, line in enumerate(said, 1):
        written = audit_text(line, bytes([number]) * 16)
        body = hashlib.sha256(written).digest()
        digest = link(digest, number, body)
        content = f'"erased":"{body.hex()}"' if number == 1 else f'"entry":{written.decode()}'
        lines += [f"text({number})", written.decode(), f"in an export{', once it was erased' if number == 1 else ''}"]
        lines += [f'{{"number":{number},"digest":"{digest.hex()}",{content}}}']
    return _text(*lines)


def source() -> str:
    """The file and what the configuration says of it."""
    return f"```yaml\n{SOURCES}```\n\n" + _text(
        f"{'readings.csv':<22}{json.dumps(CSV)}", _row("", CSV.encode()), f"{'value':<22}{play().values['alice']}"
    )


def question() -> str:
    """The study and the invitation."""
    example = play()
    message = example.find(Kind.INVITATION, HOSPITAL, "alice")
    invitation = _content(message, Invitation)
    (segment,) = invitation.segments
    return f"```yaml\n{STUDY}```\n\n" + _text(
        _row("round", invitation.round),
        f"{'study':<22}{len(invitation.study)} bytes: {invitation.study[:22].hex()}...",
        f"{'R = n x width':<22}3 x (230 - 30) = {segment.modulus - 1}",
        f"{'modulus M = R + 1':<22}{segment.modulus}",
        f"{'length':<22}{segment.length}",
        f"{'answer_by, ready_by':<22}{invitation.answer_by}, {invitation.ready_by}",
        f"{'deadline':<22}{invitation.deadline}",
        f"{'Invitation':<22}{len(message.payload)} bytes in an envelope of {len(message.raw)}",
        _row("digest", hashlib.sha256(message.payload).digest()),
    )


def roster() -> str:
    """What binds the rest of the round."""
    example = play()
    message = example.find(Kind.ROSTER, HOSPITAL, "alice")
    members = _content(message, Roster).members
    return _text(
        *(
            f"{'member':<22}{name}: certificate {len(member.chain[0])} bytes, Consent {len(member.consent.body)} bytes"
            for name, member in zip(PATIENTS, members, strict=True)
        ),
        f"{'Roster':<22}{len(message.payload)} bytes",
        _row("context", hashlib.sha256(b"cohortium/v1/context" + message.payload).digest()),
    )


def encoded() -> str:
    """The value as a ring element."""
    example = play()
    value = example.values["alice"]
    (vector,) = encode_values(example.study, {"heart_rate": np.array([value])})
    return _text(f"{value} - 30 = {vector[0]}      an element of the integers modulo {_ring(example).modulus}")


def shares() -> str:
    """The seeds and what they expand to."""
    example, ring = play(), _ring(play())
    lines: list[str] = []
    for peer in ("bob", "charlie"):
        seed = _seed(example, "alice", peer)
        lines += [
            *_row(f"seed for {peer}", seed),
            *_row("  key", HKDF(hashes.SHA256(), 32, salt=example.context, info=b"cohortium/v1/share").derive(seed)),
            f"{'  share':<22}{_expand(example, seed)}",
        ]
    own = _own(example, "alice")
    terms = " - ".join(str(_expand(example, _seed(example, "alice", peer))) for peer in ("bob", "charlie"))
    encoded = example.values["alice"] - 30
    return _text(*lines, f"{'own share':<22}{encoded} - {terms} = {own}  (mod {ring.modulus})")


def sealed() -> str:
    """The Share from alice to bob."""
    message = play().find(Kind.SHARE, "alice", "bob")
    parts = Parts.split(message.raw)
    return _text(
        _row("payload", message.payload, "array of 1, binary of 32: the seed"),
        _row("header", parts.header),
        f"{'certificates':<22}{len(parts.chain)}",
        _row("wrapped secret", parts.wrapped),
        _row("ciphertext and tag", parts.ciphertext),
        _row("signature", parts.signature),
        _row("digest", message.envelope.digest, "its name"),
        f"{'envelope':<22}{len(message.raw)} bytes",
    )


def carried() -> str:
    """The request and its answer."""
    message = play().find(Kind.SHARE, "alice", "bob")
    return _text(
        "POST /v1/inbox HTTP/1.1",
        "Host: bob.example:7001",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(message.raw)}",
        "",
        f"{message.raw[:16].hex()}...                 {len(message.raw)} bytes",
        "",
        "HTTP/1.1 202 Accepted",
        "Content-Length: 0",
    )


def opened() -> str:
    """What bob has then."""
    example = play()
    message = example.find(Kind.SHARE, "alice", "bob")
    seed = _content(message, Share).seed
    return _text(
        _row("seed from alice", seed),
        f"{'  share':<22}{_expand(example, seed)}",
        _row("digest received", message.envelope.digest),
    )


def partial_sums() -> str:
    """What each member adds up and seals for the hospital."""
    example, ring = play(), _ring(play())
    lines = []
    for name in PATIENTS:
        received = [_expand(example, _seed(example, peer, name)) for peer in PATIENTS if peer != name]
        partial = _content(example.find(Kind.PARTIAL_SUM, name, HOSPITAL), PartialSum)
        total = int(ring.unpack(partial.segments[0], 1)[0])
        terms = " + ".join(map(str, received))
        lines.append(f"{name:<22}{_own(example, name):>3} + {terms} = {total}  (mod {ring.modulus})")
    message = example.find(Kind.PARTIAL_SUM, "alice", HOSPITAL)
    partial = _content(message, PartialSum)
    return _text(
        *lines,
        "",
        f"{'of alice':<22}{len(message.payload)} bytes in an envelope of {len(message.raw)}",
        _row("  segments[0]", partial.segments[0], "2 bytes an element, little-endian"),
        _row("  sent[0]", partial.sent[0], "to bob"),
        _row("  sent[1]", partial.sent[1], "to charlie"),
        _row("  received[0]", partial.received[0], "from bob"),
        _row("  received[1]", partial.received[1], "from charlie"),
    )


def total() -> str:
    """What the hospital adds up, and the result."""
    example, ring = play(), _ring(play())
    partials = [_content(example.find(Kind.PARTIAL_SUM, name, HOSPITAL), PartialSum) for name in PATIENTS]
    numbers = [int(ring.unpack(partial.segments[0], 1)[0]) for partial in partials]
    added = sum(numbers) % ring.modulus
    result = example.released.result.plain()["heart_rate"]["sum"]
    raw = encode(example.released.result)
    return _text(
        f"{'total':<22}{' + '.join(map(str, numbers))} = {added}  (mod {ring.modulus})",
        f"{'decoded':<22}{added} + 3 x 30 = {result}",
        f"{'check':<22}{' + '.join(map(str, example.values.values()))} = {sum(example.values.values())}",
        _row("result", raw),
    )


def receipt() -> str:
    """The Receipt to alice."""
    example = play()
    message = example.find(Kind.RECEIPT, HOSPITAL, "alice")
    content = _content(message, Receipt)
    assert commitment(content.key, content.result) == content.commitment
    return _text(
        _row("key", content.key, "k, drawn by the hospital"),
        _row("commitment", content.commitment, "HMAC-SHA256(k, result)"),
        f"{'result':<22}the {len(content.result)} bytes above, because the study publishes to members",
        f"{'Receipt':<22}{len(message.payload)} bytes in an envelope of {len(message.raw)}",
    )


def _content(message: Message, kind: type[S]) -> S:
    content = message.content
    assert isinstance(content, kind)
    return content


def _consent(example: ExampleRound, name: str) -> Consent:
    return decode(_content(example.find(Kind.CONSENT, name, HOSPITAL), Signed).body, Consent)


def _ring(example: ExampleRound) -> Ring:
    return plan(example.study)[0].ring


def _seed(example: ExampleRound, sender: str, recipient: str) -> bytes:
    return _content(example.find(Kind.SHARE, sender, recipient), Share).seed


def _expand(example: ExampleRound, seed: bytes) -> int:
    return int(expand(seed, example.context, _ring(example).modulus, 1)[0])


def _own(example: ExampleRound, name: str) -> int:
    (value,) = encode_values(example.study, {"heart_rate": np.array([example.values[name]])})
    seeds = [Secret(_seed(example, name, peer)) for peer in PATIENTS if peer != name]
    return int(own_share(_ring(example), value, seeds, example.context)[0])


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "protocol.md": {
        "key-statement": signed_statement,
        "envelope": envelope_fields,
        "opening": envelope_opening,
        "audit-log": audit_log,
    },
    "journey.md": {
        "question": question,
        "roster": roster,
        "source": source,
        "encoded": encoded,
        "shares": shares,
        "sealed": sealed,
        "carried": carried,
        "opened": opened,
        "partial-sums": partial_sums,
        "total": total,
        "receipt": receipt,
    },
}
"""By document and name: what makes the block."""


def names(text: str) -> list[str]:
    """The blocks that a document has, in order."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def rewritten(document: str, text: str) -> str:
    """The document with every block made anew."""
    return _BLOCK.sub(lambda match: match[1] + BLOCKS[document][match["name"]]() + match[3], text)


def main() -> None:
    """Writes every block."""
    for document in BLOCKS:
        path = DOCS / document
        path.write_text(rewritten(document, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
