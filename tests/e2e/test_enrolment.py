"""A hospital that holds the authority, and real clients at its doors: openssl, curl with and without certificates, `enroll`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc.identity import Identity, Role
from pki.authority import Authority
from pki.token import Token
from scripts.deployment import HOSPITAL
from tests.e2e.enrolled import Enrolled
from tests.e2e.harness import cohortium
from tests.pki.forge import openssl
from tests.services import free_port

ALICE = Identity("demo", Role.PATIENT, "alice")
GENERAL = Identity("demo", Role.HOSPITAL, HOSPITAL)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl"),
]


class House(Enrolled):
    """The hospital runs; patients are whoever comes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "demo")
        self.door = free_port()
        made = cohortium(
            *("init", "--consortium", "demo", "--hospital", f"{HOSPITAL}@127.0.0.1:{free_port()}", "--door", str(self.door)),
            *("--patients", "alice,bob,carol", "--enroll", "--out", self.directory),
        )
        assert made.returncode == 0, made.stderr
        self.prepare(HOSPITAL)
        self.ca = self.directory / HOSPITAL / "authority"
        self.root = self.directory / HOSPITAL / "ca.crt"

    def token(self, identity: Identity = ALICE, seconds: int = 600, made: float = 0.0) -> Token:
        authority = Authority.load(self.ca)
        at, address = time.time() + made, f"https://127.0.0.1:{self.door}"
        return authority.grant(identity, [], ["127.0.0.1"], at, seconds=seconds, service=GENERAL, address=address)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    with house:
        house.start(HOSPITAL)
        yield house


def curl(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "--silent", "--max-time", "20", "--write-out", "%{stderr}%{http_code}", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


def s_client(house: House, port: int, *words: str | Path) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "http/1.1", "-CAfile", house.root, *words]
    request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_openssl_verifies_the_door_which_asks_for_no_certificate_and_speaks_tls_1_3_alone(house: House) -> None:
    said = s_client(house, house.door, "-ign_eof", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in said
    assert "New, TLSv1.3" in said
    assert "No client certificate CA names sent" in said
    assert "HTTP/1.1 404" in said
    assert "HTTP/1.1" not in s_client(house, house.door, "-tls1_2")


def test_where_messages_are_taken_openssl_gets_nowhere_without_a_certificate(house: House) -> None:
    said = s_client(house, house.port(HOSPITAL), "-ign_eof")
    assert "certificate required" in said
    assert "HTTP/1.1" not in said


def test_curl_reads_the_root_and_nothing_else(house: House) -> None:
    url = f"https://127.0.0.1:{house.door}"
    done = curl("--cacert", house.root, f"{url}/v1/authority")
    assert (done.stdout, done.stderr) == (house.root.read_bytes(), b"200")
    for path in ("/", "/v1/inbox", "/v1/renew", "/v1/revocations", "/metrics"):
        assert (curl("--cacert", house.root, url + path).stdout, curl("--cacert", house.root, url + path).stderr) == (b"", b"404")
    assert curl("--cacert", house.root, "--data", "@/dev/null", f"{url}/v1/enroll").stderr == b"415"


def test_openssl_and_curl_alone_can_enrol_and_renew(house: House, tmp_path: Path) -> None:
    token = house.token()
    openssl(tmp_path, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl(tmp_path, "req", "-new", "-key", "key.pem", "-subj", "/CN=whatever", "-out", "csr.pem")
    openssl(tmp_path, "req", "-in", "csr.pem", "-outform", "DER", "-out", "csr.der")
    application = {
        "identity": token.identity.uri,
        "secret": subprocess.run(["base64", "-w0"], input=token.secret, capture_output=True, check=True).stdout.decode(),
        "request": (tmp_path / "csr.pem").read_text(),
    }
    (tmp_path / "application.json").write_text(json.dumps(application))
    said = ("--cacert", house.root, "--header", "Content-Type: application/json", "--data-binary")
    done = curl(*said, f"@{tmp_path}/application.json", f"https://127.0.0.1:{house.door}/v1/enroll")
    assert done.stderr == b"200"
    welcome = json.loads(done.stdout)
    assert welcome["port"] == house.port(HOSPITAL)
    (tmp_path / "crt.pem").write_text(welcome["certificate"])
    check = ("verify", "-x509_strict", "-CAfile", str(house.root), "-untrusted")
    assert openssl(tmp_path, *check, "crt.pem", "crt.pem") == "crt.pem: OK\n"

    renew = f"https://127.0.0.1:{house.port(HOSPITAL)}/v1/renew"
    body = ("--cacert", house.root, "--header", "Content-Type: application/octet-stream", "--data-binary", f"@{tmp_path}/csr.der")
    refused = curl(*body, renew)
    assert (refused.returncode, refused.stdout, refused.stderr) == (56, b"", b"000"), "without a certificate"
    done = curl(*body, "--cert", tmp_path / "crt.pem", "--key", tmp_path / "key.pem", renew)
    assert done.stderr == b"200"
    (tmp_path / "new.pem").write_bytes(done.stdout)
    assert openssl(tmp_path, *check, "new.pem", "new.pem") == "new.pem: OK\n"
    serials = [openssl(tmp_path, "x509", "-in", name, "-noout", "-serial") for name in ("crt.pem", "new.pem")]
    assert serials[0] != serials[1]
    assert "URI:spiffe://demo/patient/alice" in openssl(tmp_path, "x509", "-in", "new.pem", "-noout", "-text")

    cohortium("pki", "revoke", serials[0].strip().removeprefix("serial="), "--dir", house.ca)
    done = curl(*body, "--cert", tmp_path / "crt.pem", "--key", tmp_path / "key.pem", renew)
    assert done.stderr in (b"403", b"000"), "by the register at once, by the next list even before"


@pytest.mark.parametrize("bad", ["used", "late", "other name", "guessed"])
def test_a_bad_token_is_refused_in_one_word_and_the_hospital_knows_why(house: House, tmp_path: Path, bad: str) -> None:
    token = house.token(seconds=1, made=-60) if bad == "late" else house.token()
    if bad == "used":
        assert cohortium("enroll", "-", "--dir", tmp_path / "first", COHORTIUM_TOKEN=token.encode()).returncode != 0, "no stdin"
        assert cohortium("enroll", "--dir", tmp_path / "first", COHORTIUM_TOKEN=token.encode()).returncode == 0
    if bad == "other name":
        token = Token(Identity("demo", Role.PATIENT, "bob"), token.service, token.address, token.root, token.secret)
    if bad == "guessed":
        token = Token(token.identity, token.service, token.address, token.root, bytes(32))
    done = cohortium("enroll", "--dir", tmp_path / "node", COHORTIUM_TOKEN=token.encode())
    assert done.returncode == 77
    assert f"{GENERAL} does not take this token" in done.stderr
    outcome = {"used": "used", "late": "late", "other name": "other-name", "guessed": "unknown"}[bad]
    assert house.wait_for_log(HOSPITAL, "enrolment-refused", outcome=outcome)["address"] == "127.0.0.1"
    assert sorted(path.name for path in (tmp_path / "node").iterdir()) == ["identity.key"]
    log = (house.directory / HOSPITAL / "daemon.log").read_text()
    assert token.encode() not in log + done.stderr


def test_a_node_without_a_token_of_its_own_cannot_use_the_address_of_another_authority(house: House, tmp_path: Path) -> None:
    token = house.token()
    forged = Token(token.identity, token.service, token.address, bytes(32), token.secret)
    done = cohortium("enroll", "--dir", tmp_path / "node", COHORTIUM_TOKEN=forged.encode())
    assert done.returncode == 77
    assert "has another authority than the token, which was not sent to it" in done.stderr
    assert cohortium("enroll", "--dir", tmp_path / "node", COHORTIUM_TOKEN=token.encode()).returncode == 0


def test_without_the_hospital_enrolment_is_tried_again_later(house: House, tmp_path: Path) -> None:
    token = house.token()
    away = Token(token.identity, token.service, f"https://127.0.0.1:{free_port()}", token.root, token.secret)
    done = cohortium("enroll", "--dir", tmp_path / "node", COHORTIUM_TOKEN=away.encode())
    assert done.returncode == 75
    assert "nothing listens for" in done.stderr
    assert cohortium("enroll", "--dir", tmp_path / "node", COHORTIUM_TOKEN=token.encode()).returncode == 0
