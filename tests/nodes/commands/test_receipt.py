"""`cohortium receipt`: verified with the authority's certificate alone, and shown and exported by the daemons that keep it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mpc.errors import CohortiumError, IdentityError, UsageError
from mpc.identity import Identity
from mpc.messages import Kind
from mpc.receipt import DisclosedResult, ReceiptRefused, write_receipt, write_result
from mpc.wire import encode
from nodes.client import Hospital
from nodes.commands.receipt import receipt as receipt_group
from nodes.patient import PatientDaemon
from pki.profile import revocation_list
from tests.mpc.nodes import CONSORTIUM, HOSPITAL, NOW, authority, keyring, patient
from tests.mpc.world import World, world
from tests.nodes.house import STUDY, Site, at_work, eventually, make_site, nothing_left_over, short_directory

ALL = ("alice", "bob", "charlie")
DAY = 86_400


@cache
def finished() -> World:
    """A round in which bob's countersignature was lost."""
    made = world(*ALL)
    made.run(drop=lambda letter: letter.kind is Kind.COUNTERSIGNATURE and letter.sender == patient("bob"))
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with the receipt, the authority's certificate, and what opens the commitment."""
    (tmp_path / "round.receipt").write_bytes(write_receipt(finished().receipts[HOSPITAL.name]))
    (tmp_path / "ca.crt").write_bytes(authority(CONSORTIUM)[1].public_bytes(Encoding.PEM))
    (released,) = finished().released
    (tmp_path / "round.result").write_bytes(write_result(DisclosedResult(encode(released.result), released.key)))
    return tmp_path


def invoke(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(receipt_group, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def verify(files: Path, *arguments: str | Path) -> Result:
    return invoke("verify", files / "round.receipt", "--ca", files / "ca.crt", *arguments)


def a_list(files: Path, *revoked: tuple[Identity, float, x509.ReasonFlags], until: float | None = None) -> Path:
    """A revocation list of the authority, with what it says of each node, and when."""
    key, root = authority(CONSORTIUM)
    entries = [
        (x509.load_der_x509_certificate(keyring(who).chain[0]).serial_number, int(at), reason) for who, at, reason in revoked
    ]
    made = revocation_list(entries, 1, root, key, int(NOW), int(until or time.time() + DAY))
    path = files / "ca.crl"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return path


# -- verify


def test_a_receipt_that_holds_says_in_words_what_it_proves_and_what_not(files: Path) -> None:
    lines = verify(files).stdout.splitlines()
    text = "\n".join(lines)
    assert lines[0] == f"{files / 'round.receipt'} holds"
    assert re.fullmatch(r"receipt      [0-9a-f]{64}", lines[1])
    assert "hospital     spiffe://demo/hospital/st-marys" in lines
    assert "purpose      test" in lines
    assert "members      3: alice, bob, charlie" in lines
    assert "signed by    alice, charlie; not by bob" in lines
    assert "result for   the hospital alone" in lines
    assert "  - sum of value" in lines
    assert "rules        none: everything is told as it is" in lines
    assert "noise        none: the totals are exact" in lines
    proves, _, proves_not = text.partition("It does not prove:")
    assert "st-marys ran this round over these 3 members, and over no others." in proves
    assert "  - 2 of them took part to the end" in proves
    assert "what the members contributed is true" in proves_not
    assert "nobody can work it out, or test a guess" in proves_not
    assert str(finished().total()) not in text


def test_certificates_that_have_ended_since_are_told_and_hold(files: Path) -> None:
    notes = [line for line in verify(files).stdout.splitlines() if line.startswith("since then")]
    ended = datetime.fromtimestamp(NOW + 30 * DAY, UTC).strftime("%Y-%m-%d")
    assert len(notes) == 4
    assert f"the certificate of {HOSPITAL} was valid then, and has ended on {ended}" in notes[0]


def test_json_has_the_same_for_programs(files: Path) -> None:
    said = json.loads(verify(files, "--json").stdout)
    assert said["holds"] is True
    assert said["members"] == [{"member": patient(name).uri, "countersigned": name != "bob"} for name in ALL]
    assert (said["opened"], said["countersign_until"]) == (NOW, NOW + 60 + DAY)
    assert said["context"] == (finished().hospital.context or b"").hex()
    assert said["result"] is None


def test_a_disclosed_result_is_told_with_it(files: Path) -> None:
    said = json.loads(verify(files, "--result", files / "round.result", "--json").stdout)
    assert said["result"] == {"value": {"sum": finished().total()}}
    last = verify(files, "--result", files / "round.result").stdout.splitlines()[-1]
    assert last == f"  - sum of value: {finished().total()}"


@pytest.mark.parametrize("what", ["round.receipt", "round.result"])
def test_one_changed_byte_is_exit_status_1_and_says_why(files: Path, what: str) -> None:
    path = files / what
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] = ord("A") if raw[len(raw) // 2] != ord("A") else ord("B")
    path.write_bytes(raw)
    with pytest.raises(ReceiptRefused, match="does not hold") as caught:
        verify(files, "--result", files / "round.result")
    assert caught.value.exit_status == 1


def test_a_refusal_is_json_too(files: Path) -> None:
    (files / "round.receipt").write_text("no receipt")
    result = CliRunner().invoke(receipt_group, ["verify", str(files / "round.receipt"), "--ca", str(files / "ca.crt"), "--json"])
    said = json.loads(result.stdout)
    assert said["holds"] is False
    assert "no receipt of this program" in said["detail"]


def test_another_authority_is_exit_status_1(files: Path) -> None:
    (files / "ca.crt").write_bytes(authority("other")[1].public_bytes(Encoding.PEM))
    with pytest.raises(ReceiptRefused, match="not trusted here"):
        verify(files)


def test_files_that_are_not_there_are_a_mistake_of_whoever_asks(files: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        invoke("verify", files / "absent", "--ca", files / "ca.crt")
    with pytest.raises(IdentityError, match="does not exist"):
        invoke("verify", files / "round.receipt", "--ca", files / "absent")


def test_what_is_far_too_large_is_not_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpc.receipt.MAX_FILE", 100)
    with pytest.raises(UsageError, match="larger than 100 bytes"):
        verify(files)


# -- revocations


@pytest.mark.parametrize("who", [HOSPITAL, patient("charlie")], ids=lambda who: who.name)
def test_who_was_revoked_before_the_round_makes_it_fail(files: Path, who: Identity) -> None:
    with pytest.raises(ReceiptRefused, match=f"the certificate of {who}.* was revoked on .*superseded"):
        verify(files, "--crl", a_list(files, (who, NOW - 1, x509.ReasonFlags.superseded)))


def test_who_was_revoked_since_is_told(files: Path) -> None:
    text = verify(files, "--crl", a_list(files, (patient("bob"), NOW + DAY, x509.ReasonFlags.superseded))).stdout
    assert f"the certificate of {patient('bob')}, or one that it rests on, was revoked on 2023-11-15" in text


def test_a_stolen_key_counts_for_no_time_at_all(files: Path) -> None:
    """Whoever has it can write any time into what it signs."""
    with pytest.raises(ReceiptRefused, match="keyCompromise"):
        verify(files, "--crl", a_list(files, (patient("bob"), NOW + DAY, x509.ReasonFlags.key_compromise)))


def test_a_list_that_names_nobody_here_changes_nothing(files: Path) -> None:
    assert "was revoked" not in verify(files, "--crl", a_list(files)).stdout


def test_a_list_that_has_ended_is_told(files: Path) -> None:
    text = verify(files, "--crl", a_list(files, until=NOW + DAY)).stdout
    assert "has ended on 2023-11-15T22:13:20Z: it does not say who was revoked since" in text


def test_a_list_of_another_authority_is_not_taken(files: Path) -> None:
    key, root = authority("other")
    path = files / "other.crl"
    made = revocation_list([], 1, root, key, int(NOW), int(time.time()) + DAY)
    path.write_bytes(made.public_bytes(Encoding.PEM))
    with pytest.raises(IdentityError, match="not signed by an authority that is trusted here"):
        verify(files, "--crl", path)


# -- daemons


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, {"alice": 725, "bob": 310, "charlie": 540}, STUDY + "publish: members\n")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small keys, and nothing that is meant for a process of its own."""
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)


async def ask(site: Site, node: str, *arguments: str | Path) -> Result:
    """The command as a person at that node gives it."""
    return await asyncio.to_thread(invoke, *arguments, "--socket", site.directory / f"{node}.sock")


def countersigned(*patients: PatientDaemon) -> bool:
    """Whether their rounds are over, and the hospital has all that they had to say."""
    return all(not len(one.driver.rounds) and not one.driver.outbox.depth() for one in patients)


async def listed(site: Site, node: str) -> Sequence[dict[str, str]]:
    found: Sequence[dict[str, str]] = json.loads((await ask(site, node, "list", "--json")).stdout)
    return found


async def test_daemons_show_and_export_what_anybody_can_verify(site: Site) -> None:
    hospital, patients = site.daemons()
    ca = site.directory / "ca" / "ca.crt"
    async with nothing_left_over(), at_work(*patients.values(), hospital):
        result = await Hospital(site.directory / "general.sock").run("pressure")
        await eventually(lambda: countersigned(*patients.values()))
        shown = (await ask(site, "general", "show", result.receipt[:8])).stdout
        assert "signed by    alice, bob, charlie\n" in shown
        assert f"round        {result.round}" in shown
        assert {(await listed(site, name))[0]["receipt"] for name in ("general", *ALL)} == {result.receipt}
        (line,) = (await ask(site, "alice", "list")).stdout.splitlines()
        assert line.startswith(f"{result.receipt[:16]}  ")
        assert line.endswith(f" UTC  round {result.round[:12]}  pressure")

        for node, signers in (("general", set(ALL)), ("alice", {"alice"})):
            to, opens = site.directory / f"{node}.receipt", site.directory / f"{node}.result"
            done = await ask(site, node, "export", result.round[:12], "--to", to, "--result", opens)
            assert done.stdout.split() == [str(to), str(opens)]
            assert opens.stat().st_mode & 0o777 == 0o600
            said = json.loads((await asyncio.to_thread(invoke, "verify", to, "--ca", ca, "--result", opens, "--json")).stdout)
            assert said["result"] == {"value": {"sum": 1575}}
            assert {Identity.parse(one["member"]).name for one in said["members"] if one["countersigned"]} == signers
            assert said["notes"] == []

        with pytest.raises(IdentityError, match="exists already"):
            await ask(site, "alice", "export", result.round[:12], "--to", site.directory / "alice.receipt")
        with pytest.raises(UsageError, match="no receipt is of a study 'weight', or it or its round begins so"):
            await ask(site, "alice", "show", "weight")
        for name in ("pressure", result.receipt, result.round):
            shown_json = json.loads((await ask(site, "alice", "show", name, "--json")).stdout)
            assert shown_json["receipt"] == result.receipt

        await hospital.erase(0)
        assert await listed(site, "general") == []


async def test_what_release_rules_keep_back_opens_no_commitment() -> None:
    with short_directory() as directory:
        rules = STUDY + "release: {minimum_cell: 3}\n"
        site = make_site(directory, {"alice": 725, "bob": 310, "charlie": 540}, rules)
        hospital, patients = site.daemons()
        async with nothing_left_over(), at_work(*patients.values(), hospital):
            result = await Hospital(directory / "general.sock").run("pressure")
            with pytest.raises(UsageError, match="release rules keep the exact totals from everybody"):
                await ask(site, "general", "export", result.round, "--to", directory / "a", "--result", directory / "b")
            assert not (directory / "a").exists(), "both files, or none"
            await eventually(lambda: countersigned(*patients.values()))
            with pytest.raises(UsageError, match="it was for the hospital alone"):
                await ask(site, "alice", "export", result.round, "--to", directory / "a", "--result", directory / "b")


async def test_a_receipt_that_a_node_does_not_believe_any_more_is_still_exported(site: Site) -> None:
    """Its authority was replaced: whoever has the old certificate can verify it."""
    hospital, patients = site.daemons()
    async with nothing_left_over(), at_work(*patients.values(), hospital):
        result = await Hospital(site.directory / "general.sock").run("pressure")
        other = make_site(site.directory / "other", {"alice": 1, "bob": 2, "charlie": 3})
        fresh = other.daemons()[0]._loaded.trust
        hospital._loaded = replace(hospital._loaded, trust=fresh)
        with pytest.raises(CohortiumError, match="does not believe the receipt any more"):
            await ask(site, "general", "show", result.receipt)
        await ask(site, "general", "export", result.receipt, "--to", site.directory / "old.receipt")
        ca = site.directory / "ca" / "ca.crt"
        assert (await asyncio.to_thread(invoke, "verify", site.directory / "old.receipt", "--ca", ca)).exit_code == 0
