"""One round with fixed keys and fixed dice: the documents show its bytes, and a test makes them again.

Every line that runs is the daemons' own but two: what a node draws from its entropy is the digest of a label, and RSA-OAEP
takes its seed from there too instead of from the operating system. The secrets shown are secrets of this example alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import cast
from unittest import mock

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import OAEP
from cryptography.hazmat.primitives.serialization import load_der_private_key

import mpc.keys
from mpc.credentials import Credentials
from mpc.disclosure import Bounds, Policy
from mpc.envelope import Envelope, open_sealed, parse
from mpc.identity import Credential, Identity
from mpc.keys import Keyring, RoundKey, WrappingKey, publish
from mpc.messages import RULES, Kind
from mpc.rounds.admission import admit
from mpc.rounds.events import Effect, Event, MessageReceived, OpenRound, ReadValues, Released, Send, ValuesRead
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.patient import PatientRound
from mpc.statement import Signed
from mpc.study import Study
from mpc.wire import Struct, decode
from nodes.sources import SourceConfig
from nodes.sources.base import read_study
from nodes.studies import load_study
from nodes.transport.limits import Limits
from nodes.yaml_struct import load
from pki.trust import TrustStore

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "envelope.json").read_text(encoding="utf-8"))
CHARLIE = json.loads((Path(__file__).parent / "charlie.json").read_text(encoding="utf-8"))
NOW: int = VECTORS["now"]
ROUND = hashlib.sha256(b"round").digest()[:16]
HOSPITAL = "st-marys"
PATIENTS = ("alice", "bob", "charlie")

CSV = "day,heart_rate\n2024-03-01,72\n"
SOURCES = """\
sources:
  heart_rate:
    bounds: [30, 220]
    csv: {file: readings.csv, column: heart_rate, row: 1}
"""
STUDY = """\
id: resting-heart-rate
title: Resting heart rate
purpose: The example of the documents.
variables:
  - {name: heart_rate, unit: 1/min, bounds: [30, 230]}
statistics:
  - {kind: sum, variable: heart_rate}
cohort:
  members: [alice, bob, charlie]
publish: members
"""
OTHER_VALUES = {"bob": 64, "charlie": 81}


class _Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sources: dict[str, SourceConfig]


def drawn(label: str) -> Callable[[int], bytes]:
    """An entropy whose n-th draw is the beginning of SHA-256("LABEL n")."""
    numbers = itertools.count()
    return lambda size: hashlib.sha256(f"{label} {next(numbers)}".encode()).digest()[:size]


class FixedOaep:
    """An RSA public key that pads with a seed made of the label: RSA-OAEP (RFC 8017 section 7.1.1) without its chance."""

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key

    def encrypt(self, message: bytes, padding: OAEP) -> bytes:
        """`message` encrypted for the key, the padding's label taken into account."""
        label = padding._label or b""
        size = self._key.key_size // 8
        seed = hashlib.sha256(b"oaep seed" + label).digest()
        block = hashlib.sha256(label).digest() + bytes(size - len(message) - 66) + b"\1" + message
        masked = _xor(block, _mgf1(seed, len(block)))
        padded = b"\0" + _xor(seed, _mgf1(masked, 32)) + masked
        numbers = self._key.public_numbers()
        return pow(int.from_bytes(padded, "big"), numbers.e, numbers.n).to_bytes(size, "big")


def _mgf1(seed: bytes, length: int) -> bytes:
    blocks = (hashlib.sha256(seed + counter.to_bytes(4, "big")).digest() for counter in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Message:
    """A message as it travelled, and as its recipient read it."""

    raw: bytes = field(repr=False)
    envelope: Envelope
    payload: bytes = field(repr=False)

    @property
    def content(self) -> Struct:
        """The payload, decoded."""
        return decode(self.payload, RULES[self.envelope.kind].payload)


@dataclass(frozen=True)
class ExampleRound:
    """Everything that happened."""

    study: Study
    hospital: HospitalRound
    patients: dict[str, PatientRound]
    messages: list[Message]
    """In the order in which they arrived."""
    values: dict[str, int]
    released: Released

    def find(self, kind: Kind, sender: str, recipient: str) -> Message:
        """The one message of this kind from and to these."""
        (found,) = [
            message
            for message in self.messages
            if (message.envelope.kind, message.envelope.sender.name, message.envelope.recipient.name) == (kind, sender, recipient)
        ]
        return found

    @property
    def context(self) -> bytes:
        """Of the roster."""
        assert self.hospital.context is not None
        return self.hospital.context


@cache
def play() -> ExampleRound:
    """Plays the round."""
    original = mpc.keys._read_statement

    def fixed(statement: Signed, credential: Credential) -> WrappingKey | None:
        key = original(statement, credential)
        return key and replace(key, public_key=cast(rsa.RSAPublicKey, FixedOaep(key.public_key)))

    with mock.patch("mpc.keys._read_statement", fixed), tempfile.TemporaryDirectory() as directory:
        return _play(Path(directory))


def _play(directory: Path) -> ExampleRound:
    study = _study(directory)
    values = {"alice": _read_source(directory, study), **OTHER_VALUES}
    trust = TrustStore([bytes.fromhex(VECTORS["root"])])
    keyrings = {name: _keyring(name) for name in (HOSPITAL, *PATIENTS)}
    me = trust.verify(keyrings[HOSPITAL].chain, NOW)
    hospital = HospitalRound(ROUND, keyrings[HOSPITAL], drawn(HOSPITAL), credentials=Credentials(trust), me=me, study=study)
    policy = Policy(me.identity, {"heart_rate": Bounds(30, 220)}, vouched_authorities=frozenset({me.authority}))
    patients = {
        name: PatientRound(
            ROUND,
            keyrings[name],
            drawn(name),
            credentials=Credentials(trust),
            policy=policy,
            ledger=_Ledger(),
            endpoint=f"https://{name}.example:7001",
        )
        for name in PATIENTS
    }
    machines: dict[str, HospitalRound | PatientRound] = {HOSPITAL: hospital, **patients}
    round_keys = {name: machine.round_key for name, machine in machines.items()}
    messages: list[Message] = []
    happened: list[Effect] = []
    todo: deque[tuple[str, Event | Send]] = deque([(HOSPITAL, OpenRound())])
    while todo:
        name, event = todo.popleft()
        if isinstance(event, Send):
            message = _open(event.envelope, keyrings[event.recipient.name], round_keys[event.recipient.name])
            receiver = machines[event.recipient.name]
            admitted = admit(
                message.envelope,
                peer=keyrings[name].identity,
                me=event.recipient,
                credentials=receiver.credentials,
                now=NOW,
            )
            messages.append(message)
            name, event = event.recipient.name, MessageReceived(admitted)
        effects = machines[name].handle(event, NOW)
        happened += effects
        todo.extend((name, effect) for effect in effects if isinstance(effect, Send))
        if any(isinstance(effect, ReadValues) for effect in effects):
            todo.appendleft((name, ValuesRead({"heart_rate": np.array([values[name]])})))
    released = next(effect for effect in happened if isinstance(effect, Released))
    return ExampleRound(study, hospital, patients, messages, values, released)


def _open(raw: bytes, keyring: Keyring, round_key: RoundKey | None) -> Message:
    envelope = parse(raw, Limits().message_bytes)
    if not RULES[envelope.kind].sealed:
        return Message(raw, envelope, bytes(envelope.ciphertext))
    assert round_key is not None
    return Message(raw, envelope, open_sealed(envelope, keyring.encryption.private_key, round_key))


class _Ledger:
    """An empty one."""

    def open_rounds(self) -> int:
        return 0

    def invitations_since(self, time: float) -> int:
        return 0


def _study(directory: Path) -> Study:
    path = directory / "study.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return load_study(path, "demo").study


def _read_source(directory: Path, study: Study) -> int:
    (directory / "readings.csv").write_text(CSV, encoding="utf-8")
    (directory / "patient.yaml").write_text(SOURCES, encoding="utf-8")
    source = load(directory / "patient.yaml", _Sources).sources["heart_rate"].source("heart_rate")
    return int(read_study(study, {"heart_rate": source}, 1)["heart_rate"][0])


def _keyring(name: str) -> Keyring:
    table = CHARLIE if name == "charlie" else VECTORS["nodes"][name]
    identity = Identity.parse(table["identity"])
    signing_key = load_der_private_key(bytes.fromhex(table["identity_key_pkcs8"]), None)
    private_key = load_der_private_key(bytes.fromhex(table["encryption_key_pkcs8"]), None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    encryption = publish(identity, signing_key, private_key, NOW)
    return Keyring(identity, signing_key, (bytes.fromhex(table["certificate"]),), encryption)
