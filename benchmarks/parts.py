"""Where the time of a round goes: each part of it alone, on one core, and how often a round needs it over all nodes.

    parts.py [--patients N] [--length L] [--range R] [--json]

What a round takes is about the last column's sum over the number of cores, and the waiting between its phases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mpc.statistics
from benchmarks import values
from mpc.envelope import Envelope, Place, Recipient, open_sealed, parse, seal
from mpc.errors import Answer
from mpc.expand import add_expansion
from mpc.identity import Identity, Role
from mpc.keys import DEFAULT_BITS, PUBLIC_EXPONENT, EncryptionKey, Keyring, RoundKey, WrappingKey, publish
from mpc.messages import Kind, PartialSum, Share
from mpc.ring import Ring, RunningSum
from mpc.signature import sign_digest, tagged_digest, verify_digest
from mpc.study import UNRESTRICTED, Statistic, Study, Variable
from mpc.wire import decode, encode
from nodes.transport.https import HttpsTransport
from pki.authority import Authority
from pki.node import load_node_key
from pki.trust import TrustStore

_LEAST_RUNS = 3
_SECONDS_A_PART = 0.2


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of work: how long it takes once, and how often a round needs it, all nodes together."""

    name: str
    seconds: float
    times: int

    @property
    def seconds_a_round(self) -> float:
        """CPU seconds of this part in one round."""
        return self.seconds * self.times


def measure(work: Callable[[], object]) -> float:
    """Median wall seconds of `work`, after one run to warm up."""
    work()
    runs: list[float] = []
    while len(runs) < _LEAST_RUNS or sum(runs) < _SECONDS_A_PART:
        began = time.perf_counter()
        work()
        runs.append(time.perf_counter() - began)
    return statistics.median(runs)


def parts(patients: int, length: int, largest_sum: int) -> list[Part]:
    """Every part of a round of so many patients with `length` values each, and R = `largest_sum`."""
    ends = _Ends()
    sealed_small = ends.seal(Kind.SHARE, encode(Share(os.urandom(32))))
    sealed_large = ends.seal(Kind.PARTIAL_SUM, _partial_sum(patients, length, largest_sum))
    return [
        *_vector_parts(patients, length, largest_sum),
        *_message_parts(ends, sealed_small, sealed_large, patients, length, largest_sum),
        *asyncio.run(_request_parts(sealed_small, sealed_large, patients)),
    ]


def _vector_parts(patients: int, length: int, largest_sum: int) -> list[Part]:
    ring = Ring(largest_sum + 1)
    bound = largest_sum // patients
    study = _study(patients, length, bound)
    local = {"value": values.vector(1, length, bound)}
    (vector,) = mpc.statistics.encode(study, local)
    packed = ring.pack(vector)
    seed, context = os.urandom(32), os.urandom(32)
    total = RunningSum(ring, ring.zeros(length))
    return [
        Part("encode the values", measure(lambda: mpc.statistics.encode(study, local)), patients),
        # Each patient expands the seeds that it sends and those that it receives.
        Part("expand and add a seed", measure(lambda: add_expansion(total, seed, context)), 2 * patients * (patients - 1)),
        Part("subtract the shares", measure(lambda: ring.subtract(vector, vector)), patients),
        Part("pack a vector", measure(lambda: ring.pack(vector)), patients),
        Part("unpack a vector", measure(lambda: ring.unpack(packed, length)), patients),
        Part("add a partial sum", measure(lambda: total.add(vector)), patients),
    ]


def _small_messages(patients: int) -> int:
    """Consent, Roster, Ready, Collect and Receipt of each patient, and a Share for each pair and direction."""
    return 5 * patients + patients * (patients - 1)


def _partial_sum(patients: int, length: int, largest_sum: int) -> bytes:
    vector = bytes(Ring(largest_sum + 1).width * length)
    digests = (bytes(32),) * (patients - 1)
    return encode(PartialSum((vector,), digests, digests))


def _message_parts(
    ends: _Ends, sealed_small: bytes, sealed_large: bytes, patients: int, length: int, largest_sum: int
) -> list[Part]:
    small, large = encode(Share(os.urandom(32))), _partial_sum(patients, length, largest_sum)
    digest = tagged_digest("benchmark", b"")
    signature = sign_digest(ends.signing_key, digest)
    verifying_key = ends.signing_key.public_key()
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    public_key = ends.rsa_key.public_key()
    wrapped = public_key.encrypt(bytes(32), oaep)
    messages = _small_messages(patients)
    # Consent and Ready are statements, signed besides their envelopes, and every member checks those of all.
    statements = 2 * patients
    return [
        Part("seal a small message", measure(lambda: ends.seal(Kind.SHARE, small)), messages),
        Part("open a small message", measure(lambda: ends.open(sealed_small)), messages),
        Part("  of which wrap (RSA)", measure(lambda: public_key.encrypt(bytes(32), oaep)), 0),
        Part("  of which unwrap (RSA)", measure(lambda: ends.rsa_key.decrypt(wrapped, oaep)), 0),
        Part("seal a partial sum", measure(lambda: ends.seal(Kind.PARTIAL_SUM, large)), patients),
        Part("open a partial sum", measure(lambda: decode(ends.open(sealed_large), PartialSum)), patients),
        Part("sign a statement", measure(lambda: sign_digest(ends.signing_key, digest)), statements),
        Part(
            "verify a statement",
            measure(lambda: verify_digest(verifying_key, signature, digest)),
            statements * (patients + 1),
        ),
    ]


async def _request_parts(small: bytes, large: bytes, patients: int) -> list[Part]:
    """Requests over mutual TLS on a kept connection. Both ends are in this process: CPU time of client and server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority.create(folder / "ca", "benchmark", time.time())
        nodes: list[tuple[Identity, HttpsTransport]] = []
        for role, who in ((Role.HOSPITAL, "hospital"), (Role.PATIENT, "patient")):
            identity = Identity("benchmark", role, who)
            files = authority.issue_node(identity, (), ("127.0.0.1",), time.time(), out=folder)
            trust = TrustStore([authority.certificate.der])
            transport = HttpsTransport(
                "127.0.0.1:0",
                proof=load_node_key(files.key, files.certificate, trust, time.time(), identity),
                roots=trust.roots,
                roles=frozenset(Role),
            )
            await transport.start(_accept)
            nodes.append((identity, transport))
        (hospital, server), (_, client) = nodes
        endpoint = f"https://127.0.0.1:{server.port}"

        async def seconds(message: bytes) -> float:
            await client.send(hospital, endpoint, message)
            runs: list[float] = []
            while len(runs) < _LEAST_RUNS or sum(runs) < _SECONDS_A_PART:
                began = time.perf_counter()
                await client.send(hospital, endpoint, message)
                runs.append(time.perf_counter() - began)
            return statistics.median(runs)

        try:
            return [
                # The Invitation is not sealed, but it is sent.
                Part("TLS request, small", await seconds(small), _small_messages(patients) + patients),
                Part("TLS request, partial sum", await seconds(large), patients),
            ]
        finally:
            for _, transport in nodes:
                await transport.stop()


async def _accept(_message: bytes, _peer: Identity) -> Answer:
    return Answer.ACCEPTED


class _Ends:
    """A sender and a recipient with real keys; one node plays both."""

    def __init__(self) -> None:
        self.identity = Identity("benchmark", Role.PATIENT, "one")
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.rsa_key = rsa.generate_private_key(PUBLIC_EXPONENT, DEFAULT_BITS)
        encryption: EncryptionKey = publish(self.identity, self.signing_key, self.rsa_key, now=time.time())
        self.keyring = Keyring(self.identity, self.signing_key, (bytes(600),), encryption)
        self.round_key = RoundKey(os.urandom)
        wrapping = WrappingKey(self.identity, encryption.key_id, self.rsa_key.public_key(), 0, encryption.not_after)
        self.recipient = Recipient(self.identity, wrapping, self.round_key.public)
        self.place = Place(bytes(16), bytes(32))

    def seal(self, kind: Kind, payload: bytes) -> bytes:
        envelope, _ = seal(
            kind,
            payload,
            self.place,
            keyring=self.keyring,
            round_key=self.round_key,
            recipient=self.recipient,
            secret=os.urandom(32),
        )
        return envelope

    def open(self, raw: bytes) -> bytes:
        envelope: Envelope = parse(raw, len(raw))
        if not verify_digest(self.signing_key.public_key(), envelope.signature, envelope.digest):
            raise AssertionError("the benchmark's own signature does not hold")
        return open_sealed(envelope, self.rsa_key, self.round_key)


def _study(patients: int, length: int, bound: int) -> Study:
    return Study(
        id="benchmark",
        title="",
        purpose="",
        variables=(Variable.number("value", "", 0, bound, length),),
        statistics=(Statistic.of("sum", "value"),),
        members=tuple(f"spiffe://benchmark/patient/p{number:04}" for number in range(patients)),
        minimum=3,
        range=None,
        assume_in_range=False,
        publish="hospital",
        answer_within=1,
        ready_within=1,
        deadline=1,
        records=1,
        legal_basis="",
        release=UNRESTRICTED,
    )


def table(rows: Sequence[Part]) -> str:
    """The parts as lines of text, their sum last."""
    lines = [f"{'part':24} {'ms':>10} {'times':>7} {'ms a round':>11}"]
    for part in rows:
        times, a_round = (f"{part.times}", f"{1000 * part.seconds_a_round:.2f}") if part.times else ("", "")
        lines.append(f"{part.name:24} {1000 * part.seconds:10.3f} {times:>7} {a_round:>11}")
    total = 1000 * sum(part.seconds_a_round for part in rows)
    lines.append(f"{'all nodes together':24} {'':10} {'':7} {total:11.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Where the time of a round goes, part by part.")
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--length", type=int, default=10**6)
    parser.add_argument("--range", type=int, help="R, the largest sum (default: patients x 10^6)")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    rows = parts(asked.patients, asked.length, asked.range or asked.patients * 10**6)
    if asked.json:
        print(json.dumps([asdict(part) for part in rows]))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
