"""A consortium whose two levels of authorities are the openssl program: real daemons work by it, and obey its revocation list.

Both ends of every connection show a chain here, and nothing of this project has signed anything.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pki.files import read_certificates
from pki.show import fingerprint
from scripts.deployment import HOSPITAL
from tests.e2e.client import files_of
from tests.e2e.harness import SECONDS, Cohort, total, wait_for
from tests.pki.forge import needs_openssl, openssl

PATIENTS = ("alice", "bob", "charlie")
ASKED = b"GET /v1/revocations HTTP/1.1\r\nHost: node\r\n\r\n"

pytestmark = needs_openssl


class OpensslAuthority:
    """A root and an issuing authority below it, by docs/pki.md, "What a certificate looks like"."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sign("root", "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n", "")
        self._sign("issuing", "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n", "root")
        (directory / "index").touch()
        (directory / "number").write_text("01\n")
        (directory / "ca.cnf").write_text(
            "[ca]\ndefault_ca=here\n[here]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=2\n"
            "crl_extensions=extensions\n[extensions]\nauthorityKeyIdentifier=keyid\n"
        )

    def issue(self, role: str, name: str) -> None:
        """NAME.key and NAME.crt, which has the issuing authority's certificate after the node's."""
        self._sign(
            name,
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
            f"subjectAltName=URI:spiffe://demo/{role}/{name},IP:127.0.0.1\n",
            "issuing",
        )
        chain = self.directory / f"{name}.crt"
        chain.write_bytes(chain.read_bytes() + (self.directory / "issuing.crt").read_bytes())

    def revoke(self, *names: str) -> bytes:
        """The next list, PEM."""
        authority = ("ca", "-config", "ca.cnf", "-cert", "issuing.crt", "-keyfile", "issuing.key")
        for name in names:
            openssl(self.directory, *authority, "-revoke", f"{name}.crt", "-crl_reason", "keyCompromise")
        openssl(self.directory, *authority, "-gencrl", "-out", "issuing.crl")
        return (self.directory / "issuing.crl").read_bytes()

    def _sign(self, name: str, extensions: str, issuer: str) -> None:
        identifiers = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        (self.directory / f"{name}.ext").write_text(extensions + identifiers)
        openssl(self.directory, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        openssl(self.directory, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        signer = ("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial") if issuer else ("-signkey", "root.key")
        files = ("-in", f"{name}.csr", "-extfile", f"{name}.ext", "-days", "2", "-sha256", "-out", f"{name}.crt")
        openssl(self.directory, "x509", "-req", *files, *signer)


def _take_over(cohort: Cohort, authority: OpensslAuthority) -> None:
    """In place of the deployment's own keys and certificates come those of openssl; each node reads lists from a file."""
    (cohort.directory / "ca" / "ca.crt").write_bytes((authority.directory / "root.crt").read_bytes())
    [root_certificate] = read_certificates(authority.directory / "root.crt")
    root = fingerprint(hashlib.sha256(root_certificate).digest())
    for name in (HOSPITAL, *PATIENTS):
        for kind, mode in (("key", 0o600), ("crt", 0o644)):
            place = cohort.directory / name / f"{name}.{kind}"
            place.write_bytes((authority.directory / f"{name}.{kind}").read_bytes())
            place.chmod(mode)
        (cohort.directory / name / "ca.crl").write_bytes(authority.revoke())

        def change(config: dict[str, Any], name: str = name) -> None:
            config["revocation"] = {"every": 1, "file": "ca.crl"}
            if name != HOSPITAL:
                config["trust"] = {"authorities": [root]}
                config["policy"]["vouched"] = {"authorities": [root]}

        cohort.edit(name, change)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> OpensslAuthority:
    made = OpensslAuthority(tmp_path_factory.mktemp("openssl"))
    made.issue("hospital", HOSPITAL)
    for name in PATIENTS:
        made.issue("patient", name)
    return made


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, authority: OpensslAuthority) -> Iterator[Cohort]:
    with Cohort(tmp_path_factory.mktemp("levels"), {name: {"literal": 100} for name in PATIENTS}) as running:
        _take_over(running, authority)
        running.write_study("three", members=PATIENTS, deadline=6)
        running.start(HOSPITAL, *PATIENTS)
        yield running


def _words(cohort: Cohort, name: str, who: str) -> list[str]:
    files = files_of(cohort, who)
    at = f"127.0.0.1:{cohort.port(name)}"
    shown = ("-cert", files.certificate, "-cert_chain", files.certificate, "-key", files.key, "-CAfile", files.authority)
    words = ("openssl", "s_client", "-connect", at, *shown, "-verify_return_error", "-alpn", "http/1.1", "-quiet")
    return [str(word) for word in words]


@contextmanager
def _standing(cohort: Cohort, name: str, who: str) -> Iterator[subprocess.Popen[bytes]]:
    """A connection that openssl holds open by the certificate of `who`, after one request was answered."""
    done = subprocess.Popen(
        _words(cohort, name, who), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    try:
        assert done.stdin is not None
        assert done.stdout is not None
        done.stdin.write(ASKED)
        assert done.stdout.read(8) == b"HTTP/1.1"
        yield done
    finally:
        done.kill()
        done.communicate()


def _asks(cohort: Cohort, name: str, who: str, *words: str) -> bytes:
    """What openssl is answered on a new connection; nothing when it is not let in."""
    asked = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    return subprocess.run(
        [*_words(cohort, name, who), *words], input=asked, capture_output=True, timeout=SECONDS, check=False
    ).stdout


def test_daemons_work_by_a_hierarchy_of_openssl_and_cut_off_whoever_its_list_names(
    cohort: Cohort, authority: OpensslAuthority, tmp_path: Path
) -> None:
    assert total(cohort.run("three")) == 300
    assert _asks(cohort, HOSPITAL, "charlie").startswith(b"HTTP/1.1 200")
    assert _asks(cohort, "alice", "charlie").startswith(b"HTTP/1.1 404"), "a patient hands on no lists"
    assert b"-----BEGIN X509 CRL-----" in _asks(cohort, HOSPITAL, "bob")

    session = tmp_path / "session"
    resumable = _asks(cohort, HOSPITAL, "charlie", "-sess_out", str(session))
    assert resumable.startswith(b"HTTP/1.1 200")
    assert not session.exists(), "nobody is given what would let him back in without his certificate"

    with (
        _standing(cohort, HOSPITAL, "charlie") as at_hospital,
        _standing(cohort, "alice", "charlie") as at_alice,
        _standing(cohort, HOSPITAL, "bob") as of_bob,
    ):
        listed = authority.revoke("charlie")
        for name in (HOSPITAL, "alice"):
            (cohort.directory / name / "ca.crl").write_bytes(listed)
            cohort.signal(name, signal.SIGHUP)
        for standing in (at_hospital, at_alice):
            standing.wait(SECONDS)
        assert of_bob.poll() is None, "who is not named keeps his connection"
    for name in (HOSPITAL, "alice"):
        assert _asks(cohort, name, "charlie") == b""
        assert _asks(cohort, name, "bob").startswith(b"HTTP/1.1 ")
        assert cohort.admin(name).metric("cohortium_connections_refused_total", reason="revoked") >= 1
        assert cohort.wait_for_log(name, "connections-cut")["connections"] >= 1
        [listed_now] = cohort.admin(name).get("/v1/status")["revocation_lists"]
        assert listed_now["revoked"] == 1

    # Bob has not been told; the hospital, whom he asks, hands the list on.
    cohort.wait_for_log("bob", "revocations-taken", revoked=1)
    wait_for(lambda: _asks(cohort, "bob", "charlie") == b"", "bob refuses charlie, too")

    final = cohort.run("three")
    assert (final["outcome"], final["code"], final["missing"]) == ("aborted", "too-few-members", ["charlie"])
    trouble = cohort.hospital.get("/v1/status")["unreachable"]["charlie"]
    assert "the certificate of spiffe://demo/patient/charlie was revoked on" in trouble


def test_an_older_or_foreign_list_leaves_the_one_that_is_obeyed(
    cohort: Cohort, authority: OpensslAuthority, tmp_path: Path
) -> None:
    file = cohort.directory / "alice" / "ca.crl"
    before = cohort.admin("alice").get("/v1/status")["revocation_lists"]
    (tmp_path / "other").mkdir()
    shutil.copy(file, tmp_path / "newest.crl")
    foreign = OpensslAuthority(tmp_path / "other").revoke()
    for content in (foreign, b"\0" * (9 << 20), file.read_bytes().replace(b"MII", b"NII", 1)):
        refused = len(cohort.logged("alice", "reload-refused"))
        file.write_bytes(content)
        cohort.signal("alice", signal.SIGHUP)
        wait_for(lambda refused=refused: len(cohort.logged("alice", "reload-refused")) > refused, "alice refuses the list")  # type: ignore[misc]
        assert str(file) in cohort.logged("alice", "reload-refused")[-1]["reason"]
        assert cohort.admin("alice").get("/v1/status")["revocation_lists"] == before
    first = authority.directory / "first.crl"
    first.write_bytes((cohort.directory / "charlie" / "ca.crl").read_bytes())
    file.write_bytes(first.read_bytes())
    cohort.signal("alice", signal.SIGHUP)
    line = cohort.wait_for_log("alice", "revocations-refused")
    assert "is not newer than number" in line["reason"]
    assert cohort.admin("alice").get("/v1/status")["revocation_lists"] == before
    shutil.copy(tmp_path / "newest.crl", file)
