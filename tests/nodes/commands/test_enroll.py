"""`cohortium enroll`: where the token comes from, what is printed, and that it never is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import CohortiumError, IdentityError, UsageError
from mpc.identity import Identity, Role
from nodes.commands.enroll import enroll
from nodes.config import check_hospital, check_patient
from pki.authority import Authority
from tests.nodes.commands.pki_cli import run as pki

GENERAL = Identity("demo", Role.HOSPITAL, "general")
PATIENTS = ("--patient", "alice=https://a.example:7001", "--patient", "bob=relay", "--patient", "carol=relay")
RELAY = ("--relay", "mail=https://m.example:7100")


def token_for(ca: Path, identity: Identity = GENERAL) -> str:
    address = "https://127.0.0.1:7010"
    made = Authority.load(ca).grant(identity, [], ["127.0.0.1"], time.time(), seconds=60, service=GENERAL, address=address)
    return made.encode()


def result(*arguments: str | Path, stdin: str = "", **environment: str) -> Result:
    return CliRunner().invoke(enroll, [str(one) for one in arguments], input=stdin, env=environment, catch_exceptions=False)


def refusal(kind: type[CohortiumError], *arguments: str | Path, **environment: str) -> str:
    with pytest.raises(kind) as caught:
        result(*arguments, **environment)
    return str(caught.value)


@pytest.mark.parametrize("source", ["stdin", "environment", "file", "argument"])
def test_a_token_is_taken_from_where_it_is_and_shown_nowhere(ca: Path, tmp_path: Path, source: str) -> None:
    token, directory = token_for(ca), tmp_path / "general"
    given = ("--dir", directory, "--authority", ca, *PATIENTS, *RELAY)
    match source:
        case "stdin":
            done = result("-", *given, stdin=f"{token}\n")
        case "environment":
            done = result(*given, COHORTIUM_TOKEN=token)
        case "file":
            directory.mkdir()
            (directory / "token").write_text(token)
            (directory / "token").chmod(0o600)
            done = result(*given)
        case _:
            done = result(token, *given)
    assert done.exit_code == 0, done.output
    assert token not in done.output
    assert ("readable by everybody on this machine" in done.stderr) == (source == "argument")
    assert "spiffe://demo/hospital/general has its certificate" in done.stdout
    assert f"start it with: cohortium hospital --config {directory / 'hospital.yaml'}" in done.stdout
    config = check_hospital(directory / "hospital.yaml")
    assert dict(config.patients) == {"alice": "https://a.example:7001", "bob": "relay", "carol": "relay"}
    assert config.enrolment is not None
    assert config.enrolment.authority.resolve() == ca.resolve()
    for path in directory.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


def test_what_is_open_is_listed_with_its_line(ca: Path, tmp_path: Path) -> None:
    alice = Identity("demo", Role.PATIENT, "alice")
    done = result("-", "--dir", tmp_path / "alice", "--authority", ca, stdin=token_for(ca, alice))
    assert done.exit_code == 0, done.output
    assert "still to be said by you:" in done.stdout
    assert "policy" in done.stdout.partition("still to be said by you:")[2]


def test_options_fill_in_what_the_token_does_not_say(ca: Path, tmp_path: Path) -> None:
    alice = Identity("demo", Role.PATIENT, "alice")
    known = ("--hospital", "general=https://general.example:7000", "--vouched", "bob,carol", "--listen", "127.0.0.1:7999")
    done = result("-", "--dir", tmp_path / "alice", "--authority", ca, *known, stdin=token_for(ca, alice))
    assert "start it with" in done.stdout, done.output
    config = check_patient(tmp_path / "alice" / "patient.yaml")
    assert (config.listen, config.url) == ("127.0.0.1:7999", "https://127.0.0.1:7999")
    assert config.hospital.url == "https://general.example:7000"


def test_a_second_run_says_that_nothing_was_missing(ca: Path, tmp_path: Path) -> None:
    token = token_for(ca)
    given = ("-", "--dir", tmp_path / "general", "--authority", ca, *PATIENTS, *RELAY)
    result(*given, stdin=token)
    done = result(*given, stdin=token)
    assert done.exit_code == 0
    assert "nothing was missing" in done.stdout


def test_a_protected_authority_needs_its_passphrase(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    (tmp_path / "passphrase").chmod(0o600)
    ca = tmp_path / "ca"
    pki("init", ca, "--consortium", "demo", "--passphrase-file", tmp_path / "passphrase")
    token = pki(
        "token", "hospital/general", "--address", "https://127.0.0.1:7010", "--service", "hospital/general", "--dir", ca
    ).strip()
    given = ("--dir", tmp_path / "general", "--authority", ca, *PATIENTS, *RELAY)
    assert "is protected by a passphrase; give --passphrase-file FILE" in refusal(IdentityError, *given, COHORTIUM_TOKEN=token)
    done = result(*given, "--passphrase-file", tmp_path / "passphrase", COHORTIUM_TOKEN=token)
    assert done.exit_code == 0, done.output


def test_mistakes_are_told(ca: Path, tmp_path: Path) -> None:
    here = ("--dir", tmp_path / "general")
    assert "there is no token: give '-' and the token on standard input" in refusal(UsageError, *here, COHORTIUM_TOKEN="")
    said = refusal(IdentityError, *here, COHORTIUM_TOKEN=token_for(ca)[:-1])
    assert "the token is mistyped or cut off" in said
    for option, text in (("--relay", "mail"), ("--patient", "alice"), ("--relay", "=https://m:1")):
        assert f"{option} {text}: write NAME=" in refusal(UsageError, *here, option, text, COHORTIUM_TOKEN=token_for(ca))
    for listen in ("7000", "h:x", "h:0", "h:65536"):
        assert f"--listen {listen}: write HOST:PORT" in refusal(
            UsageError, *here, "--listen", listen, COHORTIUM_TOKEN=token_for(ca)
        )
    model = token_for(ca, Identity("demo", Role.MODEL, "m"))
    assert "model/m has no daemon that could be set up" in refusal(UsageError, *here, COHORTIUM_TOKEN=model)
    assert not (tmp_path / "general").exists()
