"""What a receipt proves and what it does not: as one object for programs, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from mpc.errors import IdentityError
from mpc.identity import Identity
from mpc.receipt import (
    COUNTERSIGN_SECONDS,
    CheckedReceipt,
    ReceiptRefused,
    ReleasedStatistic,
    SignedReceipt,
    Terms,
    check_receipt,
)
from mpc.release import in_words as rules_in_words
from mpc.result import Result
from mpc.study import MILLION, PUBLISH_MEMBERS, TINY
from pki.certificate import read, utc
from pki.files import read_public
from pki.lists import MAX_BYTES, take, unpack
from pki.trust import TrustStore

_ANY_TIME = frozenset({"keyCompromise", "cACompromise", "aACompromise"})
"""Whoever has such a key may have signed with it, and written any time: RFC 5280 section 5.3.1 has the words."""


class MemberProof(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt proves of one member: at the least its consent."""

    member: str
    """Identity URI."""
    countersigned: bool


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt that holds, as `cohortium receipt verify --json` prints it. Times are Unix seconds."""

    receipt: str
    """Its digest in hex."""
    round: str
    context: str
    version: int
    hospital: str
    """Identity URI."""
    study: str
    study_digest: str
    purpose: str
    members: tuple[MemberProof, ...]
    publish: str
    """Who was to get the result: "hospital", or "members" too."""
    statistics: tuple[str, ...]
    rules: str
    """The release rules in words; empty where there are none."""
    privacy: str
    """What noise promises; empty where there is none."""
    opened: int
    released: int
    countersign_until: int
    commitment: str
    notes: tuple[str, ...]
    """What has changed since then: certificates that have expired or were revoked."""
    result: dict[str, dict[str, int | list[int]]] | None
    """The exact totals, where what opens the commitment was given."""

    def __repr__(self) -> str:
        return f"<Proof of {self.study}, round {self.round[:12]}>"


def prove(receipt: SignedReceipt, trust: TrustStore, now: float, lists: Sequence[Path] = ()) -> tuple[CheckedReceipt, list[str]]:
    """The receipt, checked, and notes on what has changed since. `lists` are files with revocation lists to obey.

    `now` is Unix seconds. Raises ReceiptRefused; IdentityError for a list that cannot be used.
    """
    checked = check_receipt(receipt, trust)
    chains = [checked.hospital_chain, *(member.chain for member in checked.members)]
    obeyed = _with_lists(trust, lists, chains, now)
    credentials = [checked.hospital, *(member.credential for member in checked.members)]
    notes = []
    for credential, chain in zip(credentials, chains, strict=True):
        if now > credential.not_after:
            notes.append(f"the certificate of {credential.identity} was valid then, and has ended on {utc(credential.not_after)}")
        if lists:
            notes += _revocations(obeyed, credential.identity, chain, checked.statement.released)
    ended = [one.revocations for one in obeyed.lists if one.revocations.next_update < now]
    notes += [f"{one}, has ended on {utc(one.next_update)}: it does not say who was revoked since" for one in ended]
    return checked, notes


def as_proof(checked: CheckedReceipt, notes: Sequence[str] = (), result: Result | None = None) -> Proof:
    """The object."""
    statement, terms = checked.statement, checked.statement.terms
    return Proof(
        receipt=checked.digest.hex(),
        round=statement.round.hex(),
        context=statement.context.hex(),
        version=statement.version,
        hospital=checked.hospital.identity.uri,
        study=statement.study_id,
        study_digest=statement.study.hex(),
        purpose=checked.purpose,
        members=tuple(
            MemberProof(member=member.credential.identity.uri, countersigned=member.countersigned) for member in checked.members
        ),
        publish=terms.publish,
        statistics=tuple(map(_statistic, terms.statistics)),
        rules=rules_in_words(terms.release),
        privacy=_privacy(terms),
        opened=statement.opened,
        released=statement.released,
        countersign_until=statement.deadline + int(COUNTERSIGN_SECONDS),
        commitment=statement.commitment.hex(),
        notes=tuple(notes),
        result=None if result is None else result.plain(),
    )


def facts(proof: Proof) -> Iterator[str]:
    """What the receipt says, a line each."""
    signed = [_name(member) for member in proof.members if member.countersigned]
    unsigned = [_name(member) for member in proof.members if not member.countersigned]
    yield f"receipt      {proof.receipt}"
    yield f"hospital     {proof.hospital}"
    yield f"study        {_printable(proof.study)}, SHA-256 {proof.study_digest}"
    yield f"purpose      {_printable(proof.purpose) or 'not stated'}"
    yield f"round        {proof.round}, opened {utc(proof.opened)}, result {utc(proof.released)}, protocol {proof.version}"
    yield f"members      {len(proof.members)}: {', '.join(_name(member) for member in proof.members)}"
    yield f"signed by    {', '.join(signed) or 'no member'}{'; not by ' if unsigned else ''}{', '.join(unsigned)}"
    yield f"result for   {'the hospital and all members' if proof.publish == PUBLISH_MEMBERS else 'the hospital alone'}"
    for statistic in proof.statistics:
        yield f"  - {_printable(statistic)}"
    yield f"rules        {proof.rules or 'none: everything is told as it is'}"
    yield f"noise        {proof.privacy or 'none: the totals are exact'}"
    for note in proof.notes:
        yield f"since then   {note}"


def meaning(proof: Proof) -> Iterator[str]:
    """What follows from a receipt that holds, and what does not."""
    hospital = Identity.parse(proof.hospital).name
    signed = sum(member.countersigned for member in proof.members)
    yield "It proves:"
    yield f"  - {hospital} ran this round over these {len(proof.members)} members, and over no others."
    yield "  - Each of them had consented: to this study, for this purpose, to this hospital."
    yield f"  - {signed} of them took part to the end, and found their own consent in it, the study that they were asked, and"
    yield "    what was released as the study says. The others may have done so too; their word is not in it."
    yield f"  - {hospital} is bound to one result: none but this one opens the commitment."
    yield "It does not prove:"
    yield "  - that what the members contributed is true, or that the result says what it is said to say;"
    yield "  - what the result is: nobody can work it out, or test a guess, from this receipt;"
    yield "  - that the members are who they are called, but for the word of the authority;"
    yield "  - the times, but for the clocks of those who signed."
    if proof.result is not None:
        yield "The result that was given with it is the one that the hospital committed itself to:"
        for variable, totals in proof.result.items():
            yield from (f"  - {_printable(name)} of {_printable(variable)}: {total}" for name, total in totals.items())


def _statistic(statistic: ReleasedStatistic) -> str:
    words = f"{statistic.kind} of {statistic.variable}"
    if statistic.others:
        words += f" with {', '.join(statistic.others)}"
    if statistic.by:
        words += f" for each {statistic.by}"
    return f"{statistic.id}: {words}" if statistic.id else words


def _privacy(terms: Terms) -> str:
    promise = terms.privacy
    if promise is None:
        return ""
    return (
        f"of each {promise.per}, epsilon {promise.epsilon / MILLION:g} and delta {promise.delta / TINY:g}, "
        f"also if {promise.colluding} members collude"
    )


def _with_lists(trust: TrustStore, lists: Sequence[Path], chains: Sequence[tuple[bytes, ...]], now: float) -> TrustStore:
    known = list(dict.fromkeys(issuer for chain in chains for issuer in chain[1:]))
    for path in lists:
        trust, problems = take(trust, unpack(read_public(path, MAX_BYTES)), now, known)
        if problems:
            raise IdentityError(f"{path}: {problems[0]}") from problems[0]
    return trust


def _revocations(trust: TrustStore, who: Identity, chain: tuple[bytes, ...], at: int) -> Iterator[str]:
    """Notes on certificates of `chain` that were revoked after `at`. Raises ReceiptRefused for one that did not count then."""
    found = trust.lists_for(chain)
    if found[0] is None:
        raise IdentityError(
            f"no list that is given is of the authority that issued the certificate of {who}; give that one's, too"
        )
    for der, revocations in zip(chain, found, strict=True):
        revocation = None if revocations is None else revocations.revoked.get(read(der).serial)
        if revocation is None:
            continue
        if revocation.at <= at or revocation.reason in _ANY_TIME:
            raise ReceiptRefused(f"the certificate of {who}, or one that it rests on, was revoked {revocation}")
        yield f"the certificate of {who}, or one that it rests on, was revoked {revocation}"


def _name(member: MemberProof) -> str:
    return Identity.parse(member.member).name


def _printable(text: str) -> str:
    """A stranger's text for a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
