"""A name is spiffe://CONSORTIUM/ROLE/NAME and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from tests.mpc.properties import quick

edges = st.sampled_from("az09")
inner = st.text("az09._-", max_size=61)
names = st.one_of(edges, st.builds(lambda a, b, c: a + b + c, edges, inner, edges))


@given(names, st.sampled_from(Role), names)
@quick
def test_a_name_reads_back_as_itself(consortium: str, role: Role, name: str) -> None:
    identity = Identity(consortium, role, name)

    assert Identity.parse(identity.uri) == identity
    assert str(identity) == f"spiffe://{consortium}/{role.value}/{name}"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "alice",
        "https://demo/patient/alice",
        "SPIFFE://demo/patient/alice",
        "spiffe://demo/patient",
        "spiffe://demo/patient/",
        "spiffe://demo/patient/alice/",
        "spiffe://demo/patient/alice/more",
        "spiffe://demo/patient/alice?x=1",
        "spiffe://demo/patient/alice#x",
        "spiffe://demo/patient/Alice",
        "spiffe://demo/patient/al%69ce",
        "spiffe://demo/patient/.",
        "spiffe://demo/patient/..",
        "spiffe://demo/patient/-alice",
        "spiffe://demo/patient/alice-",
        "spiffe://demo/patient/älice",
        "spiffe://demo/patient/alic\u0435",
        "spiffe://demo/patient/alice\n",
        " spiffe://demo/patient/alice",
        "spiffe://demo/patient/al ice",
        "spiffe://demo/patient/al\x00ice",
        "spiffe://user@demo/patient/alice",
        "spiffe://demo:443/patient/alice",
        "spiffe:///patient/alice",
        "spiffe://demo//alice",
        "spiffe://demo/patient/" + "a" * 64,
        "spiffe://" + "a" * 64 + "/patient/alice",
    ],
)
def test_other_spellings_are_no_identity(uri: str) -> None:
    with pytest.raises(IdentityError, match="is not an identity"):
        Identity.parse(uri)


@pytest.mark.parametrize("role", ["doctor", "patients", "hospitals", "root"])
def test_an_unknown_role_is_refused_with_the_known_ones(role: str) -> None:
    with pytest.raises(IdentityError, match="roles are hospital, patient, relay, model"):
        Identity.parse(f"spiffe://demo/{role}/alice")


@pytest.mark.parametrize("name", ["", "Alice", "a/b", "a" * 64, "alice\n", "a b", "..", "a\N{COMBINING ACUTE ACCENT}"])
def test_an_impossible_name_is_not_made(name: str) -> None:
    with pytest.raises(IdentityError, match="is not a name"):
        Identity("demo", Role.PATIENT, name)


def test_an_identity_made_and_one_read_are_one_key() -> None:
    made, read = Identity("trial.example", Role.PATIENT, "gp-7"), Identity.parse("spiffe://trial.example/patient/gp-7")

    assert {made: "found"}[read] == "found"
    assert len({made, read, Identity("trial.example", Role.HOSPITAL, "gp-7")}) == 2


def test_identities_are_ordered_as_their_uris_are() -> None:
    some = [
        Identity(consortium, role, name)
        for consortium in ("demo", "other")
        for role in (Role.RELAY, Role.HOSPITAL, Role.PATIENT)
        for name in ("bob", "al", "alice", "a-b", "a.b", "a1")
    ]
    assert [identity.uri for identity in sorted(some)] == sorted(identity.uri for identity in some)
