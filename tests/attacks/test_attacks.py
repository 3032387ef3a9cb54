"""What a hospital may try to learn one member's value, and which patient's daemon refuses it, in the words of its own ledger."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from mpc.disclosure import Bounds, Withdrawal, question_digest
from mpc.messages import CONSENT_STATEMENT, Consent, Kind, Member, Roster
from mpc.rounds.events import CancelRound, PersonDecided, Withdrawn
from mpc.signature import sha256
from mpc.statement import sign
from mpc.statistics.fineness import narrowest
from mpc.study import Statistic, Variable
from mpc.wire import decode
from nodes.rounds import Happened
from nodes.store.audit import AuditEvent
from tests.attacks.scene import Letter, asks, roster_of, scene
from tests.mpc.nodes import HOSPITAL, NOW, keyring, patient, policy

FOUR = ("alice", "bob", "charlie", "dora")
DAY = 24 * 3600


def named(member: Member) -> str:
    return decode(member.consent.body, Consent).endpoint.removeprefix("https://").removesuffix(".example:8443")


def without(*names: str) -> Any:
    return roster_of(lambda members: tuple(member for member in members if named(member) not in names))


async def test_two_rosters_that_differ_by_one(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        await made.open(asks(*FOUR))
        assert len(made.released) == 1
        await made.open(asks("alice", "bob", "charlie"))
        assert await made.why() == "value is bound to a roster of 4 members for another 720 h, of whom it does not ask all"
        await made.open(asks(*FOUR, minimum=3), without("dora"))
        assert "value is bound to a roster of 4 members for another 720 h, and this one lacks dora" in await made.why()
        await made.restart("alice")
        await made.open(asks("alice", "bob", "charlie"))
        assert "of whom it does not ask all" in await made.why(), "after a restart as well"
        assert (await made.given(), len(made.released)) == (1, 1)


async def test_a_roster_with_one_more(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        await made.open(asks("alice", "bob", "charlie"))
        await made.open(asks(*FOUR))
        assert "and this one has dora besides" in await made.why()
        assert await made.given() == 1


@pytest.mark.parametrize("guard", ["bound", "pairwise"])
async def test_four_rosters_that_look_safe_in_pairs_isolate_one_member(guard: str, tmp_path: Path) -> None:
    """alice, bob and charlie are in all. The first less the second less the third plus the fourth is emil alone."""
    known, a, b, c, d = "abc", "de", "fg", "hi", "jk"
    names = {letter: f"patient-{letter}" for letter in "abcdefghijkz"} | {"a": "alice"}
    rosters = [known + a + b + "z", known + a + c, known + b + d, known + c + d]
    assert all(len(set(one) - set(other)) >= 2 for one in rosters for other in rosters if one != other), "a floor of 2 would do"
    weights = {letter: sum(sign * (letter in one) for sign, one in zip((1, -1, -1, 1), rosters, strict=True)) for letter in names}
    assert [letter for letter, weight in weights.items() if weight] == ["z"]

    others = {name: replace(policy(), guard="pairwise", floor=2) for name in names.values()}
    async with scene(tmp_path, *names.values(), rules={"guard": guard, "floor": 2}, **others) as made:
        for one in rosters:
            await made.open(asks(*(names[letter] for letter in one)))
        taken = {"bound": 1, "pairwise": 4}[guard]
        assert (await made.given(), len(made.released)) == (taken, taken), "no test on pairs is sound: hence the default"
        if guard == "bound":
            assert "value is bound to a roster of 8 members" in await made.why()


async def test_pairwise_stops_a_mistake(tmp_path: Path) -> None:
    others = dict.fromkeys(FOUR, policy(guard="pairwise", floor=2))
    async with scene(tmp_path, *FOUR, rules={"guard": "pairwise"}, **others) as made:
        await made.open(asks(*FOUR))
        await made.open(asks("alice", "bob", "charlie"))
        assert await made.why() == (
            "the roster is refused: a roster that value went into before differs from this one by dora, 1 of them vouched for; "
            "the policy's floor is 3"
        )


async def test_a_renamed_study(tmp_path: Path) -> None:
    """Another study, another name for the variable: the field is the same, and so is what it is bound to."""
    rules = {
        "sources": {"value": Bounds(0, 1_000_000), "systolic": Bounds(0, 1_000_000)},
        "fields": {"value": "systolic", "systolic": "systolic"},
    }
    renamed = asks(
        "alice",
        "bob",
        "charlie",
        id="weather",
        title="Weather",
        variables=(Variable.number("systolic", "", 0, 1_000_000),),
        statistics=(Statistic.of("mean", "systolic"),),
    )
    async with scene(tmp_path, *FOUR, rules=rules) as made:
        await made.open(asks(*FOUR))
        await made.open(renamed)
        assert (await made.why()).startswith("systolic is bound to a roster of 4 members")


async def test_bounds_that_shrink_from_invitation_to_invitation(tmp_path: Path) -> None:
    """The refusals are the same whatever the value is: they tell what the policy declares, and nothing else."""
    told = []
    for number, value in enumerate((5, 999_995)):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with scene(directory, "alice", "bob", "charlie") as made:
            made.values["alice"] = value
            for low, high in ((0, 500_000), (0, 10), (999_990, 1_000_000)):
                await made.open(asks("alice", "bob", "charlie", variables=(Variable.number("value", "mmHg", low, high),)))
            told.append([content["reason"] for _, content in await made.lines(AuditEvent.DECLINED)])
            assert await made.given() == 0
    assert told[0] == told[1] == ["its bounds for value do not contain the declared [0, 1000000] of the source"] * 3


async def test_scales_1_1000_1000000_for_three_patients(tmp_path: Path) -> None:
    """Each is shown a study of its own, so that each value would have its own digits of the sum. A roster has one study."""
    scales = {"alice": 1, "bob": 1000, "charlie": 1_000_000}
    async with scene(tmp_path, *scales) as made:
        members: dict[str, Member] = {}
        made.lost = lambda letter: letter.kind is Kind.ROSTER
        for name, scale in scales.items():

            def note(roster: Roster, name: str = name) -> Roster:
                members[name] = next(member for member in roster.members if named(member) == name)
                return roster

            variable = Variable.number("value", "mmHg", 0, 1_000_000 * scale, scale=scale)
            await made.open(asks(*scales, variables=(variable,)), note)
        assert members.keys() == scales.keys()
        made.lost = lambda _letter: False
        await made.open(asks(*scales), roster_of(lambda _members: tuple(members[name] for name in sorted(members))))
        assert await made.why() == "the roster breaks a rule: consent-invitation"
        assert await made.given() == 0


async def test_a_round_called_aborted_after_all_partial_sums_and_run_again_without_one_member(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        made.lost = lambda letter: letter.kind is Kind.PARTIAL_SUM  # the hospital has them, and says that it has not
        round_id = await made.open(asks(*FOUR))
        assert await made.given() == 1
        await made.take(HOSPITAL, Happened(round_id, CancelRound()))
        await made.run()
        assert await made.why() == "the hospital cancelled the round"
        made.lost = lambda _letter: False
        await made.open(asks("alice", "bob", "charlie"))
        assert "value is bound to a roster of 4 members for another 720 h, and this one lacks dora" in await made.why()
        assert (await made.given(), made.released) == (1, [])
        await made.open(asks(*FOUR))
        assert len(made.released) == 1, "the same roster is not refused"


async def test_a_member_that_burnt_the_round_is_left_out_and_only_with_its_word(tmp_path: Path) -> None:
    """dora never hears that the partial sums are asked for, says so, and the round is run without her."""
    async with scene(tmp_path, *FOUR) as made:
        made.lost = lambda letter: letter.kind is Kind.COLLECT and letter.recipient.name == "dora"
        await made.open(asks(*FOUR))
        assert (await made.given(), await made.given("dora")) == (1, 0)
        await made.pass_time(200)  # the round is over, and dora's Burnt arrives after its end
        made.lost = lambda _letter: False

        forget = lambda roster: changed(roster, burnt=())  # noqa: E731
        await made.open(asks("alice", "bob", "charlie"), forget)
        assert "and this one lacks dora" in await made.why()

        await made.open(asks("alice", "bob", "charlie"))
        assert (await made.given(), len(made.released)) == (2, 1)

        await made.open(asks(*FOUR))
        assert "and this one has dora besides" in await made.why(), "her value would be the difference"


async def test_a_burnt_round_does_not_excuse_leaving_out_another(tmp_path: Path) -> None:
    five = (*FOUR, "emil")
    async with scene(tmp_path, *five) as made:
        made.lost = lambda letter: letter.kind is Kind.COLLECT and letter.recipient.name == "dora"
        await made.open(asks(*five))
        await made.pass_time(200)
        made.lost = lambda _letter: False
        (unreleased,) = made.nodes[HOSPITAL].ledger.unreleased()
        proof = tuple(burnt for _, burnt in unreleased.burnt)
        assert len(proof) == 1
        await made.open(asks("alice", "bob", "charlie"), lambda roster: changed(roster, burnt=proof))
        assert "and this one lacks dora, emil" in await made.why()


async def test_a_floor_lowered_between_invitation_and_roster(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR, "emil") as made:
        await made.open(asks(*FOUR, "emil", minimum=5), without("dora", "emil"))
        assert await made.why() == "the roster is refused: it has 3 members, the invitation promised at least 5"
    (tmp_path / "below").mkdir()
    async with scene(tmp_path / "below", *FOUR, rules={"floor": 4}) as made:
        await made.open(asks(*FOUR, minimum=3))
        assert await made.why() == "it runs over as few as 3 members, the policy's floor is 4"


async def test_invented_members_where_the_policy_vouches_for_real_ones(tmp_path: Path) -> None:
    """The hospital issues the certificates: all these nodes are good by them, and one is known to alice."""
    rules = {"vouched_members": frozenset({patient("bob")}), "vouched_authorities": frozenset[bytes]()}
    async with scene(tmp_path, "alice", "bob", "ghost-1", "ghost-2", rules=rules) as made:
        await made.open(asks("alice", "bob", "ghost-1", "ghost-2"))
        assert await made.why() == "the roster is refused: 2 of its 4 members are vouched for, the policy's floor is 3"
        assert await made.given() == 0


@pytest.mark.parametrize(
    ("statistic", "narrow"),
    [
        (Statistic.of("histogram", "value", edges=(0, 500_000, 500_001, 1_000_000)), True),
        (Statistic.of("histogram", "value", bins=1000), True),
        (Statistic.of("histogram", "value", bins=4), False),
    ],
    ids=["one narrow bin", "many bins", "wide bins"],
)
async def test_bins_so_narrow_that_one_person_is_visible(statistic: Statistic, narrow: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        await made.open(asks(*FOUR, statistics=(statistic,)))
        assert (await made.given() == 0) is narrow
        assert ("has cells so narrow that over 4 records one of them expects" in await made.why()) is narrow


async def test_groups_so_small_that_one_person_is_visible(tmp_path: Path) -> None:
    asked = asks(
        *FOUR,
        variables=(Variable.number("value", "mmHg", 0, 1_000_000), Variable.category("ward", [f"ward-{n}" for n in range(5)])),
        statistics=(Statistic.of("mean", "value", by="ward"),),
    )
    async with scene(tmp_path, *FOUR) as made:
        await made.open(asked)
        assert "mean-value has cells so narrow that over 4 records one of them expects 0.8" in await made.why()


async def test_the_same_study_every_minute(tmp_path: Path) -> None:
    """Values are used again (tests/nodes/test_ledger.py); and the rounds of a period come to an end."""
    async with scene(tmp_path, *FOUR, rules={"rounds_per_period": 3, "period": 3600}) as made:
        for minute in range(5):
            made.now = NOW + 60 * minute
            await made.open(asks(*FOUR, id=f"study-{minute}"))
        assert await made.given() == 3
        assert await made.why() == "value went into 3 rounds in its period already, the policy allows 3"
        await made.restart("alice")
        await made.open(asks(*FOUR))
        assert "went into 3 rounds" in await made.why()
        made.now = NOW + 3601
        await made.open(asks(*FOUR, id="later"))
        assert await made.given() == 4, "the period began with the first of them"


async def test_a_consent_replayed_after_its_expiry(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        kept: dict[str, Member] = {}

        def note(roster: Roster) -> Roster:
            kept.update({named(member): member for member in roster.members})
            return roster

        await made.open(asks(*FOUR), note)
        made.now += DAY
        replay = roster_of(lambda members: tuple(kept[named(one)] if named(one) == "dora" else one for one in members))
        await made.open(asks(*FOUR), replay)
        assert await made.why() == "the roster breaks a rule: consent-invitation", "it is another round's"

        expired = roster_of(lambda members: tuple(signed_again(one, expires=int(made.now) - 1) for one in members))
        await made.open(asks(*FOUR), expired)
        assert await made.why() == "the roster breaks a rule: consent-expired"
        assert await made.given() == 1


async def test_a_roster_that_comes_after_this_patients_own_consent_has_expired(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        await made.begin(asks(*FOUR))
        late: list[Letter] = []

        def hold(letter: Letter) -> bool:
            if letter.kind is Kind.ROSTER and letter.recipient.name == "alice":
                late.append(letter)
                return True
            return False

        made.lost = hold
        await made.run()
        made.now += 61
        made.lost = lambda _letter: False
        made.letters += late
        await made.run()
        assert await made.why() == "the roster breaks a rule: consent-expired"
        assert await made.given() == 0


async def test_a_consent_for_another_hospital_or_another_study(tmp_path: Path) -> None:
    changes = {
        "consent-hospital": {"hospital": "spiffe://demo/hospital/other"},
        "consent-study": {"study": sha256(b"another")},
    }
    async with scene(tmp_path, *FOUR) as made:
        for reason, change in changes.items():
            replayed = roster_of(
                lambda members, change=change: tuple(  # type: ignore[misc]
                    signed_again(one, **change) if named(one) == "dora" else one for one in members
                )
            )
            await made.open(asks(*FOUR), replayed)
            assert await made.why() == f"the roster breaks a rule: {reason}"
        assert await made.given() == 0


def signed_again(member: Member, **changes: Any) -> Member:
    """What a member that colludes with the hospital signs for it."""
    consent = changed(decode(member.consent.body, Consent), **changes)
    return changed(member, consent=sign(keyring(patient(named(member))).signing_key, CONSENT_STATEMENT, consent))


async def test_two_rounds_at_the_same_time_over_rosters_that_differ(tmp_path: Path) -> None:
    """Both pass at their rosters, when nothing is given yet. The guard looks again when the partial sum is."""
    async with scene(tmp_path, *FOUR) as made:
        made.lost = lambda letter: letter.kind is Kind.COLLECT
        first, second = asks(*FOUR), asks("alice", "bob", "charlie", id="other")
        collects: list[Letter] = []

        def hold(letter: Letter) -> bool:
            collects.extend([letter] * (letter.kind is Kind.COLLECT))
            return letter.kind is Kind.COLLECT

        made.lost = hold
        await made.open(first)
        await made.open(second)
        assert (await made.given(), len(collects)) == (0, 7), "all are ready in both"
        made.lost = lambda _letter: False
        made.letters += collects
        await made.run()
        assert (await made.given(), len(made.released)) == (1, 1)
        why = [content["detail"] for _, content in await made.lines(AuditEvent.ENDED)]
        assert any(one.startswith("the partial sum is not given: value is bound to a roster of 4 members") for one in why)


async def test_a_guard_stands_after_a_crash_between_roster_and_partial_sum(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        collects: list[Letter] = []

        def hold(letter: Letter) -> bool:
            collects.extend([letter] * (letter.kind is Kind.COLLECT))
            return letter.kind is Kind.COLLECT

        made.lost = hold
        await made.open(asks("alice", "bob", "charlie", id="other"))
        made.lost = lambda _letter: False
        await made.open(asks(*FOUR))
        await made.restart("alice")
        made.letters += [letter for letter in collects if letter.recipient.name == "alice"]
        await made.run()
        assert await made.given() == 1
        assert "the partial sum is not given: value is bound" in await made.why()


async def test_a_store_put_back_to_an_older_copy_gives_nothing_more(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        alice = made.nodes[patient("alice")]
        await alice.store.commit([alice.rounds.restored(made.now)])
        made.now += 60
        await made.open(asks(*FOUR))
        assert await made.why() == (
            "this node was restored from an older copy, which may lack what value went into; that counts for another 720 h, "
            "or until a person releases value"
        )
        alice.ledger.free(["value"], made.now)
        made.now += 1
        await made.open(asks(*FOUR))
        assert await made.given() == 1


async def test_a_person_who_has_not_answered_has_not_consented(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR, rules={"ask": ("*",)}) as made:
        await made.begin(asks(*FOUR))
        await made.run()
        assert [line.event for line, _ in await made.lines()] == ["asked"]
        await made.restart("alice")
        (waiting,) = made.nodes[patient("alice")].rounds.machines()
        await made.take(patient("alice"), Happened(waiting.round_id, PersonDecided(approved=True)))
        await made.run()
        assert (await made.given(), len(made.released)) == (1, 1)
        await made.open(asks(*FOUR))
        await made.pass_time(21)
        assert await made.why() == "nobody has decided in time"


async def test_a_study_that_a_person_has_withdrawn_from_under_another_name(tmp_path: Path) -> None:
    async with scene(tmp_path, *FOUR) as made:
        alice = made.nodes[patient("alice")]
        gone = Withdrawal("pressure", frozenset({question_digest("sum value")}))
        await made.begin(asks(*FOUR))
        made.lost = lambda letter: letter.kind is Kind.COLLECT
        await made.run()
        (machine,) = alice.rounds.machines()
        alice.ledger.withdraw([gone], [], made.now)
        await made.take(patient("alice"), Happened(machine.round_id, Withdrawn()))
        assert await made.why() == "a person has withdrawn from the study"
        made.lost = lambda _letter: False
        await made.run()
        await made.open(asks(*FOUR))
        assert await made.why() == "a person has withdrawn from pressure"
        await made.open(asks(*FOUR, id="harmless", title="Harmless"))
        assert await made.why() == "it asks all that pressure asked, from which a person has withdrawn"
        assert await made.given() == 0


def test_narrow_means_the_same_in_every_unit() -> None:
    wide = asks(*FOUR, statistics=(Statistic.of("histogram", "value", bins=4),))
    ((name, part),) = narrowest(wide)
    assert (name, part) == ("histogram-value", Fraction(1, 4))
