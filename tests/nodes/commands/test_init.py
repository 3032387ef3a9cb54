"""`cohortium init`: a directory for each node that its daemon can use, an authority that issues, and a root to lock away."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpc.errors import UsageError
from nodes.commands.init import init
from nodes.config import check_hospital, check_patient, check_relay
from pki.files import read_certificates
from pki.office import Office
from pki.token import Token
from pki.trust import TrustStore
from tests.pki.forge import needs_openssl, openssl

THREE = ("--consortium", "demo", "--hospital", "general", "--patients", "alice,bob@10.0.0.3,carol@c.example:7500")


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(init, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(*arguments: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        run(*arguments)
    return str(caught.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_without_a_relay_the_hospital_holds_the_authority_and_patients_listen(out: Path) -> None:
    run(*THREE, "--domain", "heart.example", "--out", out)
    hospital = check_hospital(out / "general" / "hospital.yaml")
    assert hospital.patients == {
        "alice": "https://alice.heart.example:7001",
        "bob": "https://10.0.0.3:7001",
        "carol": "https://c.example:7500",
    }
    assert hospital.enrolment is not None
    assert (hospital.listen, hospital.enrolment.listen) == ("0.0.0.0:7000", "0.0.0.0:7010")
    for name in ("alice", "bob", "carol"):
        patient = check_patient(out / name / "patient.yaml")
        assert (patient.topology, patient.url) == ("direct", hospital.patients[name])
        assert (patient.hospital.name, patient.hospital.url) == ("general", "https://general.heart.example:7000")
        assert patient.policy.vouched.members == ("alice", "bob", "carol")
    assert check_patient(out / "carol" / "patient.yaml").listen == "0.0.0.0:7500"


def test_with_a_relay_it_holds_the_authority_and_patients_listen_nowhere(out: Path) -> None:
    run(*THREE, "--relay", "mail@mail.example", "--door", "7443", "--out", out)
    relay = check_relay(out / "mail" / "relay.yaml")
    assert relay.enrolment is not None
    assert relay.enrolment.listen == "0.0.0.0:7443"
    hospital = check_hospital(out / "general" / "hospital.yaml")
    assert hospital.enrolment is None
    assert set(hospital.patients.values()) == {"relay"}
    patient = check_patient(out / "alice" / "patient.yaml")
    assert (patient.topology, patient.listen) == ("relay", None)
    assert patient.relay is not None
    assert patient.relay.url == "https://mail.example:7100"


@needs_openssl
def test_openssl_believes_every_certificate_and_each_has_the_names_where_its_node_is_reached(out: Path) -> None:
    run(*THREE, "--out", out)
    for name in ("general", "alice", "bob", "carol"):
        check = ("verify", "-x509_strict", "-CAfile", "root/ca.crt", "-untrusted", f"{name}/identity.crt")
        assert openssl(out, *check, f"{name}/identity.crt").endswith("OK\n")
    assert "IP Address:10.0.0.3" in openssl(out, "x509", "-in", "bob/identity.crt", "-noout", "-text")
    assert "DNS:c.example" in openssl(out, "x509", "-in", "carol/identity.crt", "-noout", "-text")


def test_only_its_own_secrets_are_in_a_nodes_directory(out: Path) -> None:
    run(*THREE, "--out", out)
    private = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()}
    nodes = {f"{name}/identity.key" for name in ("general", "alice", "bob", "carol")}
    assert private == nodes | {"root/ca.key", "general/authority/ca.key"}
    assert {stat.S_IMODE((out / name).stat().st_mode) for name in private} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, *out.iterdir())} == {0o700}


def test_the_holder_issues_below_the_root_which_can_be_locked_away(out: Path) -> None:
    run(*THREE, "--out", out)
    office = Office.load(out / "general" / "authority")
    assert office.certificate != office.root
    [issued] = Office.load(out / "root").register.read().issued.values()
    assert issued.certificate == office.certificate.der
    assert {entry.identity for entry in office.register.read().issued.values()} == {
        f"spiffe://demo/{node}" for node in ("hospital/general", "patient/alice", "patient/bob", "patient/carol")
    }


def test_a_tar_holds_what_the_directory_would_and_is_its_owners_alone(out: Path, tmp_path: Path) -> None:
    run(*THREE, "--tar", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["alice.tar", "bob.tar", "carol.tar", "general.tar", "root"]
    assert stat.S_IMODE((out / "alice.tar").stat().st_mode) == 0o600
    with tarfile.open(out / "alice.tar") as tar:
        assert {(entry.uid, entry.gid, entry.uname) for entry in tar} == {(0, 0, "")}
        tar.extractall(tmp_path, filter="tar")
    assert check_patient(tmp_path / "alice" / "patient.yaml").name == "alice"
    assert stat.S_IMODE((tmp_path / "alice" / "identity.key").stat().st_mode) == 0o600


def test_with_tokens_no_key_but_the_holders_is_made_here(out: Path) -> None:
    said = run(*THREE, "--relay", "mail", "--enroll", "--ttl", "2h", "--out", out)
    private = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()}
    assert private == {"root/ca.key", "mail/authority/ca.key", "mail/identity.key"}
    [root] = read_certificates(out / "root" / "ca.crt")
    for name, role in (("general", "hospital"), ("alice", "patient"), ("bob", "patient"), ("carol", "patient")):
        token = Token.parse((out / name / "token").read_text())
        assert (token.identity.uri, token.service.uri) == (f"spiffe://demo/{role}/{name}", "spiffe://demo/relay/mail")
        assert token.address == "https://mail:7010"
        assert stat.S_IMODE((out / name / "token").stat().st_mode) == 0o600
        assert token.encode() not in said
        assert TrustStore([root]).roots == TrustStore.load(out / name / "ca.crt").roots
    assert not (out / "mail" / "token").exists()
    granted = Office.load(out / "mail" / "authority").register.read().granted.values()
    assert {entry.expires - entry.at for entry in granted} == {7200}
    assert "start mail first; then, on each other machine: cohortium enroll --dir NAME" in said


def test_nothing_that_is_there_is_overwritten_and_what_is_refused_leaves_nothing(out: Path) -> None:
    run(*THREE, "--out", out)
    before = (out / "root" / "ca.key").read_bytes()
    assert "exists already; name a directory with --out that does not" in refusal(*THREE, "--out", out)
    assert (out / "root" / "ca.key").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_run_that_was_cut_off_is_in_nobodys_way(out: Path) -> None:
    (out.parent / ".out.new" / "root").mkdir(parents=True)
    run(*THREE, "--out", out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--patients", "alice,bob"), "--patients names 2; no patient takes part with fewer than 3"),
        (("--patients", "alice,bob,Carol"), "Carol"),
        (("--patients", "alice,bob,alice"), "'alice' cannot be the name of a node here"),
        (("--patients", "alice,bob,general"), "'general' cannot be the name of a node here"),
        (("--patients", "alice,bob,root"), "'root' cannot be the name of a node here"),
        (("--patients", "alice@h,bob@h,carol"), "two nodes would listen at https://h:7001; give each a port"),
        (("--patients", "alice,bob,carol@h:x"), "write NAME@HOST:PORT"),
        (("--patients", "alice,bob,carol@h:0"), "a port is a number from 1 to 65535"),
        (("--door", "7000"), "two nodes would listen at https://general:7000"),
        (("--consortium", "De Mo"), "De Mo"),
        (("--enroll", "--ttl", "8d"), "at most 7d"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(out: Path, changed: tuple[str, ...], said: str) -> None:
    arguments = list(THREE)
    if changed[0] in arguments:
        arguments[arguments.index(changed[0]) + 1] = changed[1]
    else:
        arguments += changed
    assert said in refusal(*arguments, "--out", out)
    assert list(out.parent.iterdir()) == []
