"""Every parser that a stranger, a peer or a relay can give bytes to, each with valid input recorded from a real round."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import cycle

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from mpc.credentials import Credentials
from mpc.envelope import parse
from mpc.errors import IdentityError, MessageRefused
from mpc.identity import Identity, Role
from mpc.keys import PURPOSE, check_statement
from mpc.mailbox import PublishedKey, read_key, read_letter
from mpc.messages import (
    BURNT_STATEMENT,
    CONSENT_STATEMENT,
    COUNTERSIGNATURE_STATEMENT,
    READY_STATEMENT,
    RECEIPT_STATEMENT,
    RULES,
    Burnt,
    Consent,
    Kind,
    Receipt,
    Roster,
)
from mpc.receipt import ReceiptRefused, SignedReceipt, check_receipt, read_receipt, write_receipt
from mpc.rounds.admission import admit
from mpc.rounds.roster import Question, read_roster
from mpc.signature import SIGNATURE_BYTES, sign_digest, tagged_digest
from mpc.statement import Signed
from mpc.study import Study, problems
from mpc.wire import Struct, decode, encode
from nodes.transport.batch import pack_answers, pack_fetched, pack_posted, unpack_answers, unpack_fetched, unpack_posted
from pki.lists import pack, take, unpack
from pki.trust import TrustStore, check_leaf
from tests.fuzz.mutate import join
from tests.fuzz.run import Target
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, authority, credential, keyring, patient, patient_round, revoking, trust
from tests.mpc.world import MAX_SIZE, Letter, World, world

_NAMES = ("alice", "bob", "charlie")
_STATEMENTS = 1024
"""Key statements that are remembered on purpose."""
_RELAY = Identity(CONSORTIUM, Role.RELAY, "post")


@cache
def finished() -> World:
    """A round that went well and gave its members the result, with everything that was sent."""
    made = world(*_NAMES, publish_to="members")
    made.run()
    assert made.released, "the recorded round is a good one"
    return made


@cache
def spoiled() -> World:
    """A round with a refusal and an abort, for the kinds that a good one has not."""
    made = world(*_NAMES)
    made.run(hold=frozenset({Kind.SHARE}))
    made.advance(45)
    made.run()
    return made


@cache
def letters() -> list[Letter]:
    """Envelopes of every kind."""
    made = finished()
    declined = made.forge(Kind.DECLINED, _declined(made), "alice", HOSPITAL.name)
    aborts = [letter for letter in spoiled().sent if letter.kind is Kind.ABORT]
    burnt = _signed(BURNT_STATEMENT, keyring(patient("alice")).signing_key, encode(Burnt(made.hospital.context or b"")))
    found = [*made.sent, declined, *aborts, made.forge(Kind.BURNT, burnt, "alice", HOSPITAL.name)]
    assert {letter.kind for letter in found} == set(Kind), "every kind is there"
    return found


def _declined(made: World) -> Struct:
    return RULES[Kind.DECLINED].payload(made.hospital.invitation_digest)


def envelopes() -> list[bytes]:
    """The same, as they travel."""
    return [letter.raw for letter in letters()]


def payload_of(letter: Letter) -> bytes:
    """What a recorded letter says."""
    envelope = parse(letter.raw, MAX_SIZE)
    if not envelope.sealed:
        return bytes(envelope.ciphertext)
    made = spoiled() if letter in spoiled().sent else finished()
    return encode(made.opened(letter))


def split_envelope(raw: bytes) -> list[tuple[int, bytes]]:
    """Fields of a valid envelope (mpc/envelope.py has the layout)."""
    at = 0

    def take(width: int, size: int = 0) -> tuple[int, bytes]:
        nonlocal at
        size = int.from_bytes(raw[at : at + width], "big") if width else size
        at += width + size
        return width, raw[at - size : at]

    fields = [take(0, 1), take(2), take(0, 1)]
    fields += [take(2) for _ in range(fields[-1][1][0])]
    return [*fields, take(2), take(4), take(0, SIGNATURE_BYTES)]


def split_posted(raw: bytes) -> list[tuple[int, bytes]]:
    """Envelopes of a valid batch."""
    return [(4, envelope) for envelope in unpack_posted(raw)]


# -- targets


def _parse(raw: bytes) -> None:
    with suppress(MessageRefused):
        envelope = parse(raw, MAX_SIZE)
        fields = [(0, bytes([envelope.version])), (2, encode(envelope.header)), (0, bytes([len(envelope.chain)]))]
        fields += [(2, certificate) for certificate in envelope.chain]
        fields += [(2, envelope.wrapped), (4, bytes(envelope.ciphertext)), (0, envelope.signature)]
        assert raw == join(fields)


def _admit() -> Callable[[bytes], None]:
    genuine = {parse(raw, MAX_SIZE).digest for raw in envelopes()}
    node = Credentials(trust())
    for name in (*_NAMES, HOSPITAL.name):
        node.learn(keyring(finished().identity(name)).chain, NOW)
    peers = cycle([HOSPITAL, *map(patient, _NAMES), _RELAY])

    def take(raw: bytes) -> None:
        with suppress(MessageRefused):
            envelope = parse(raw, MAX_SIZE)
            for peer in (envelope.sender, next(peers)):
                with suppress(MessageRefused):
                    admitted = admit(envelope, peer=peer, me=envelope.recipient, credentials=node, now=NOW)
                    assert admitted.envelope.digest in genuine, "nobody signed this"

    return take


def _decoder(kind: type[Struct]) -> Callable[[bytes], None]:
    def take(raw: bytes) -> None:
        with suppress(MessageRefused):
            assert encode(decode(raw, kind)) == raw

    return take


def _payloads() -> list[Target]:
    by_type: dict[type[Struct], list[bytes]] = {}
    for letter in letters():
        by_type.setdefault(RULES[letter.kind].payload, []).append(payload_of(letter))
    by_type[Consent] = [decode(raw, Signed).body for raw in by_type[Signed] if len(decode(raw, Signed).body) > 100]
    by_type[Study] = [encode(finished().study)]
    share = 24 / len(by_type)
    return [Target(f"payload {kind.__name__}", raws[:8], _decoder(kind), max(1, round(share))) for kind, raws in by_type.items()]


def _study(raw: bytes) -> None:
    with suppress(MessageRefused):
        problems(decode(raw, Study))


def _signed(purpose: str, key: ec.EllipticCurvePrivateKey, body: bytes) -> Signed:
    return Signed(body, sign_digest(key, tagged_digest(purpose, body)))


def _statement(raw: bytes) -> None:
    with suppress(MessageRefused):
        check_statement(decode(raw, Signed), credential(patient("alice")), NOW)


def _fill_memory() -> None:
    """Afterwards a statement that is remembered takes the place of another."""
    statement = keyring(patient("alice")).encryption.statement
    for number in range(_STATEMENTS):
        with suppress(MessageRefused):
            check_statement(
                Signed(statement.body + number.to_bytes(4, "big"), statement.signature), credential(patient("alice")), NOW
            )


def _sign_statement(body: bytes) -> bytes:
    return encode(_signed(PURPOSE, keyring(patient("alice")).signing_key, body))


def _published() -> bytes:
    ring = keyring(patient("alice"))
    return encode(PublishedKey(ring.chain, ring.encryption.statement))


def _read_key() -> Callable[[bytes], None]:
    known = Credentials(trust())

    def take(raw: bytes) -> None:
        with suppress(MessageRefused):
            read_key(raw, patient("alice"), known, NOW)

    return take


def _read_roster() -> tuple[list[bytes], Callable[[bytes], None], Callable[[bytes], bytes]]:
    """Rosters that a hospital signed, over consents that their patients signed: the changed ones among them, too."""
    made = finished()
    [original] = {payload_of(letter) for letter in letters() if letter.kind is Kind.ROSTER and letter in made.sent}
    asked = made.hospital.question
    assert asked is not None
    question = Question(asked.invitation, asked.digest, asked.study, credential(HOSPITAL))
    known = Credentials(trust())
    key = patient_round("alice").round_key
    assert key is not None

    def take(raw: bytes) -> None:
        with suppress(MessageRefused):
            roster = decode(raw, Roster)
            members = read_roster(question, roster, credentials=known, round_key=key, now=NOW)
            assert [member.member for member in members] == list(roster.members)

    def sign_again(raw: bytes) -> bytes:
        try:
            roster = decode(raw, Roster)
        except MessageRefused:
            return raw
        members = []
        for name, member in zip(_NAMES, roster.members, strict=False):
            signed = _signed(CONSENT_STATEMENT, keyring(patient(name)).signing_key, member.consent.body)
            members.append(type(member)(member.chain, signed))
        return encode(Roster(roster.invitation, roster.hospital_chain, tuple(members), roster.burnt))

    return [original], take, sign_again


def _receipt(raw: bytes) -> None:
    with suppress(ReceiptRefused):
        receipt = read_receipt(raw)
        assert write_receipt(receipt) == raw
        _check_receipt(receipt)


def _encoded_receipt(raw: bytes) -> None:
    """What is within the armour of the file."""
    with suppress(MessageRefused, ReceiptRefused):
        _check_receipt(decode(raw, SignedReceipt))


def _check_receipt(receipt: SignedReceipt) -> None:
    genuine = finished().receipts[HOSPITAL.name]
    assert check_receipt(receipt, trust()).digest == genuine.digest, "the hospital has signed no other"
    countersigned = zip(receipt.countersignatures, genuine.countersignatures, strict=True)
    assert all(one in (b"", its_own) for one, its_own in countersigned), "no member has signed another"


def _certificates() -> list[bytes]:
    return [keyring(node).chain[0] for node in (HOSPITAL, *map(patient, _NAMES))]


def _certificate(raw: bytes) -> None:
    with suppress(IdentityError):
        check_leaf(raw)
    with suppress(IdentityError):
        trust().verify((raw,), NOW)
        assert raw in _certificates(), "the authority did not issue this"


def _handed_on() -> list[bytes]:
    listed = revoking(HOSPITAL).lists
    return [pack(listed), listed[0].revocations.der, pack(listed) + ssl.DER_cert_to_PEM_cert(_certificates()[0]).encode()]


def _lists(raw: bytes) -> None:
    with suppress(IdentityError):
        believed, _ = take(trust(), unpack(raw), NOW)
        assert all(listed.revocations.number == 1 for listed in believed.lists), "the authority has signed no other"


def _any_certificate(raw: bytes) -> None:
    believed = TrustStore(trust().roots)  # it remembers what it verified, and here a lot holds
    with suppress(IdentityError):
        check_leaf(raw)
    for chain in ((raw,), (raw, raw)):
        with suppress(IdentityError):
            believed.verify(chain, NOW)


def _issue(content: bytes) -> bytes:
    """A certificate with this content (RFC 5280 section 4.1, tbsCertificate), which the trusted authority signed."""
    signature = authority(CONSORTIUM)[0].sign(content, ec.ECDSA(hashes.SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    return _der(0x30, content + ecdsa_with_sha256 + _der(0x03, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _contents() -> list[bytes]:
    """tbsCertificate of each: what is signed, with its own tag and length (both of long form)."""
    return [raw[4 : 8 + int.from_bytes(raw[6:8], "big")] for raw in _certificates()]


def _posted(raw: bytes) -> None:
    with suppress(ValueError):
        found = unpack_posted(raw)
        assert b"".join(pack_posted(found)) == raw
        for envelope in found:
            with suppress(MessageRefused):
                letter = read_letter(envelope, patient("alice"), _RELAY, MAX_SIZE)
                assert letter.sender == patient("alice")
                assert letter.envelope == envelope


def _fetched(raw: bytes) -> None:
    with suppress(ValueError):
        assert b"".join(pack_fetched(list(unpack_fetched(raw)))) == raw


def _answers(raw: bytes) -> None:
    for count in (1, len(raw)):
        with suppress(ValueError):
            assert pack_answers(unpack_answers(raw, count)) == raw


PARSERS = (
    "envelope",
    "admission",
    *("payload Invitation", "payload Signed", "payload Consent", "payload Declined", "payload Roster", "payload Share"),
    *("payload Collect", "payload PartialSum", "payload Receipt", "payload Abort", "payload Study"),
    *("study", "key statement", "signed key statement", "published key", "roster", "signed roster"),
    *("receipt file", "receipt"),
    *("certificate", "revocation lists", "issued certificate", "posted batch", "fetched batch", "answers"),
)


@cache
def parsers() -> dict[str, Target]:
    """Those that need no running node, by name; their shares sum up to about 100."""
    raws = envelopes()
    batches = [b"".join(pack_posted(raws[at : at + 3])) for at in range(0, len(raws), 3)]
    fetched = [b"".join(pack_fetched(list(enumerate(raws[at : at + 3], at + 1)))) for at in range(0, len(raws), 3)]
    statement = keyring(patient("alice")).encryption.statement
    rosters, take_roster, sign_roster = _read_roster()
    _fill_memory()
    made = [
        Target("envelope", raws, _parse, 20, split_envelope),
        Target("admission", raws, _admit(), 10, split_envelope),
        *_payloads(),
        Target("study", [encode(finished().study)], _study, 4),
        Target("key statement", [encode(statement)], _statement, 8),
        Target("signed key statement", [statement.body], _statement, 8, wrap=_sign_statement),
        Target("published key", [_published()], _read_key(), 8),
        Target("roster", rosters, take_roster, 3),
        Target("signed roster", rosters, take_roster, 2, wrap=sign_roster),
        Target("receipt file", [write_receipt(finished().receipts[HOSPITAL.name])], _receipt, 2),
        Target("receipt", [encode(finished().receipts[HOSPITAL.name])], _encoded_receipt, 3),
        Target("certificate", _certificates(), _certificate, 6),
        Target("revocation lists", _handed_on(), _lists, 4),
        Target("issued certificate", _contents(), _any_certificate, 4, wrap=_issue),
        Target("posted batch", batches, _posted, 5, split_posted),
        Target("fetched batch", fetched, _fetched, 3),
        Target("answers", [bytes(range(6)), b"\0", b"\1\1\1"], _answers, 1),
    ]
    return {target.name: target for target in made}


# -- members and hospitals that sign what they like


_PURPOSES = {
    Kind.CONSENT: CONSENT_STATEMENT,
    Kind.READY: READY_STATEMENT,
    Kind.RECEIPT: RECEIPT_STATEMENT,
    Kind.COUNTERSIGNATURE: COUNTERSIGNATURE_STATEMENT,
}
"""Of what is signed within the message."""


class Insider:
    """A node with good keys that says `kind` to another as it should, but for a change in what it says."""

    def __init__(self, kind: Kind, sender: str, recipient: str) -> None:
        self._kind, self._sender, self._recipient = kind, sender, recipient
        self._world: World | None = None

    def prepare(self) -> None:
        """A round that waits for the message; the same one until something changes it."""
        if self._world is None:
            made = world(*_NAMES, publish_to="members")
            made.run(hold=frozenset({self._kind} if self._kind is not Kind.DECLINED else {Kind.CONSENT}))
            self._world = made

    @property
    def _made(self) -> World:
        assert self._world is not None, "prepare comes first"
        return self._world

    def original(self) -> bytes:
        """What an honest node says. Of what holds a statement of its own, that."""
        self.prepare()
        if self._kind is Kind.DECLINED:
            return encode(_declined(self._made))
        if self._kind is Kind.ABORT:
            return encode(RULES[Kind.ABORT].payload(self._made.hospital.context, "cancelled", "collecting", ("bob",)))
        letter = self._made.pick(self._kind, self._sender, self._recipient)
        if self._kind is Kind.INVITATION:
            return encode(self._made.invitation)
        said = self._made.opened(letter)
        if isinstance(said, Receipt):
            return said.statement.body
        return said.body if isinstance(said, Signed) else encode(said)

    def say(self, content: bytes) -> bytes:
        """The envelope, sealed and signed."""
        purpose = _PURPOSES.get(self._kind)
        if purpose is not None:
            signed = _signed(purpose, keyring(self._made.identity(self._sender)).signing_key, content)
            content = encode(self._receipt(signed) if self._kind is Kind.RECEIPT else signed)
        return self._made.forge(self._kind, content, self._sender, self._recipient).raw

    def _receipt(self, statement: Signed) -> Receipt:
        (released,) = self._made.released
        return Receipt(statement, encode(released.result), released.key)

    def take(self, raw: bytes) -> None:
        """As the recipient takes it. What changes the round spoils it for the next message."""
        made = self._made
        source, target = made.identity(self._sender), made.identity(self._recipient)
        before = len(made.effects)
        made.deliver(Letter(source, target, self._kind, raw))
        ended = made.machines[target].ended and self._kind is not Kind.COUNTERSIGNATURE
        if made.answers.pop()[1] == "accepted" or len(made.effects) > before or ended:
            self._world = None


SAYS: Sequence[tuple[Kind, str, str, int]] = (
    (Kind.INVITATION, HOSPITAL.name, "alice", 30),
    (Kind.CONSENT, "alice", HOSPITAL.name, 20),
    (Kind.DECLINED, "alice", HOSPITAL.name, 5),
    (Kind.ROSTER, HOSPITAL.name, "alice", 13),
    (Kind.SHARE, "bob", "alice", 4),
    (Kind.READY, "alice", HOSPITAL.name, 6),
    (Kind.COLLECT, HOSPITAL.name, "alice", 4),
    (Kind.PARTIAL_SUM, "alice", HOSPITAL.name, 5),
    (Kind.RECEIPT, HOSPITAL.name, "alice", 10),
    (Kind.COUNTERSIGNATURE, "alice", HOSPITAL.name, 4),
    (Kind.ABORT, "alice", HOSPITAL.name, 2),
    (Kind.ABORT, HOSPITAL.name, "alice", 1),
)


def insider(kind: Kind, sender: str, recipient: str, share: int) -> Target:
    """What any node with a certificate can do to a round's machines."""
    made = Insider(kind, sender, recipient)
    name = f"{kind.purpose} that {sender} signed"
    return Target(name, [made.original()], made.take, share, wrap=made.say, prepare=made.prepare, stateless=False)
