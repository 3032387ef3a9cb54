"""Revocation lists as nodes hand them on: PEM blocks, lists and the certificates of the authorities that signed them.

    -----BEGIN X509 CRL-----        one a list
    -----BEGIN CERTIFICATE-----     of an issuing authority, so that whoever trusts its root alone can check its list

The order does not matter and nothing is believed because it is here: `take` believes what `pki.trust` believes.
"""

from __future__ import annotations

import binascii
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import IdentityError
from pki.certificate import Certificate, read
from pki.revocation import MAX_LIST_BYTES, RevocationList
from pki.trust import Listed, TrustStore, issued

MAX_BYTES = 2 * MAX_LIST_BYTES
"""Of everything together: two authorities' lists, the largest there may be."""
_MAX_BLOCKS = 16
_BLOCK = re.compile(rb"-----BEGIN (X509 CRL|CERTIFICATE)-----([^-]*)-----END \1-----")  # RFC 7468 section 2
_LIST = b"X509 CRL"


@dataclass(frozen=True, slots=True)
class Lists:
    """What was handed on, unverified."""

    lists: tuple[RevocationList, ...]
    authorities: tuple[Certificate, ...] = field(repr=False)


def pack(listed: Iterable[Listed]) -> bytes:
    """These lists, each with the authorities between its own and the root."""
    blocks: dict[str, None] = {}  # each once, in order
    for one in listed:
        blocks |= dict.fromkeys(map(ssl.DER_cert_to_PEM_cert, one.intermediates))
        blocks[one.revocations.x509.public_bytes(Encoding.PEM).decode()] = None
    return "".join(blocks).encode()


def unpack(data: bytes) -> Lists:
    """The lists in `data`: blocks as above, or one list as DER. Raises IdentityError for any other bytes."""
    if len(data) > MAX_BYTES:
        raise IdentityError(f"there are more than {MAX_BYTES} bytes, which no revocation lists here have; fetch them again")
    if b"-----BEGIN" not in data:
        return Lists((RevocationList.parse(data),), ())
    blocks = [(match[1], _der(match[2])) for match in _BLOCK.finditer(data)]
    if not any(kind == _LIST for kind, _ in blocks) or len(blocks) > _MAX_BLOCKS:
        raise IdentityError(
            f"there must be a revocation list ('-----BEGIN X509 CRL-----'), and at most {_MAX_BLOCKS} lists and certificates; "
            f"have the authority make it with 'cohortium pki crl'"
        )
    lists = tuple(RevocationList.parse(der) for kind, der in blocks if kind == _LIST)
    return Lists(lists, tuple(read(der) for kind, der in blocks if kind != _LIST))


def take(trust: TrustStore, found: Lists, now: float, known: Sequence[bytes] = ()) -> tuple[TrustStore, list[IdentityError]]:
    """`trust` with those of the lists that are newer than what it has, and why each of the others is not taken.

    `known` are more certificates of authorities, DER. A list that is there already is neither. `now` is Unix seconds.
    """
    authorities = [*found.authorities, *map(read, known)]
    problems: list[IdentityError] = []
    for revocations in found.lists:
        try:
            trust = trust.with_list(revocations, now, _way_up(trust, revocations, authorities))
        except IdentityError as error:
            problems.append(error)
    return trust, problems


def _way_up(trust: TrustStore, revocations: RevocationList, authorities: Sequence[Certificate]) -> tuple[bytes, ...]:
    """The chain from the issuing authority that signed the list to a root; empty when a root did, or nobody here."""
    for chain in _chains(revocations, authorities):
        try:
            trust.check_authority(chain)
        except IdentityError:
            continue
        return chain
    return ()


def _chains(revocations: RevocationList, authorities: Sequence[Certificate]) -> Iterator[tuple[bytes, ...]]:
    for signer in filter(revocations.signed_by, authorities):
        yield (signer.der,)
        yield from ((signer.der, upper.der) for upper in authorities if upper is not signer and issued(signer, upper))


def _der(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        return b""  # which is neither list nor certificate, as whoever reads it will say
