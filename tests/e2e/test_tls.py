"""Who gets in, and whom our daemons talk to: every way of being the wrong one, with real TLS on real sockets."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mpc.credentials import Credentials
from mpc.errors import Answer
from mpc.identity import Identity, Role
from mpc.keys import Keyring, publish
from mpc.rounds.events import OpenRound, Send
from mpc.rounds.hospital import HospitalRound
from nodes.studies import load_study
from nodes.transport.https import HttpsTransport
from pki.node import load_node_key
from pki.trust import TrustStore
from scripts.deployment import HOSPITAL
from tests.e2e.client import Files, context, files_of, issue, issue_elsewhere, request
from tests.e2e.harness import SECONDS, Cohort, cohortium, total
from tests.e2e.played import Loop
from tests.nodes.transport.certificates import pair_of

PATIENTS = ("alice", "bob", "charlie")
STRANGE = ("absent", "elsewhere", "expired", "other", "plain-http", "plain-tcp", "silent", "swapped")
"""Patients whose port is not what it should be."""

Turned = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)
"""How a client is told that it is not wanted: in TLS 1.3 by an alert in place of the first answer, or a closed connection."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    sources = {name: {"literal": 100} for name in (*PATIENTS, *STRANGE)}
    with Cohort(tmp_path_factory.mktemp("tls"), sources) as running:
        running.write_study("three", members=PATIENTS)
        running.write_study("strange", members=STRANGE, deadline=6)
        # Another spelling of the address at which bob listens.
        swapped = f"https://localhost:{running.port('bob')}"
        running.edit(HOSPITAL, lambda config: config["patients"].update(swapped=swapped))
        running.start(HOSPITAL, *PATIENTS)
        yield running


@pytest.fixture(autouse=True)
def _next_round_is_exact(cohort: Cohort) -> Iterator[None]:
    yield
    assert total(cohort.run("three")) == 300


def patient(name: str) -> Identity:
    return Identity("demo", Role.PATIENT, name)


# -- our daemons as clients


class _Greets(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 mail.example ESMTP\r\n")


class _AnswersPlainHttp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class _SaysNothing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.settimeout(SECONDS)
        while self.request.recv(1 << 16):  # until the other end has had enough
            pass


@contextmanager
def _serving(port: int, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), handler, bind_and_activate=False)
    server.allow_reuse_address = True
    with server:
        server.server_bind()
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _inbox(loop: Loop, port: int, files: Files) -> Iterator[None]:
    """Our own listener, with whatever certificate; it accepts whatever comes."""
    transport = HttpsTransport(
        f"127.0.0.1:{port}",
        proof=pair_of(files.key, files.certificate),
        roots=TrustStore.load(files.authority).roots,
        roles=frozenset(Role),
    )

    async def accept(_raw: bytes, _peer: Identity) -> Answer:
        return Answer.ACCEPTED

    loop.run(transport.start(accept))
    try:
        yield
    finally:
        loop.run(transport.stop())


def test_a_patient_that_is_not_who_it_should_be_is_absent_and_status_says_why(
    cohort: Cohort, loop: Loop, pki_directory: Path
) -> None:
    with ExitStack() as stack:
        stack.enter_context(_serving(cohort.port("plain-tcp"), _Greets))
        stack.enter_context(_serving(cohort.port("plain-http"), _AnswersPlainHttp))
        stack.enter_context(_serving(cohort.port("silent"), _SaysNothing))
        shown = {
            "expired": issue(cohort, patient("expired"), pki_directory, expired=True),
            "elsewhere": issue_elsewhere(cohort, patient("elsewhere"), pki_directory),
            "other": issue(cohort, patient("mallory"), pki_directory),
        }
        for name, files in shown.items():
            stack.enter_context(_inbox(loop, cohort.port(name), files))
        final = cohort.run("strange")
    assert (final["outcome"], final["code"], sorted(final["missing"])) == ("aborted", "too-few-members", [*STRANGE])
    assert final["detail"] == f"too few patients consented in time; without an answer or declined: {', '.join(STRANGE)}"
    status = cohort.hospital.get("/v1/status")["unreachable"]
    at = {name: f"{patient(name)} at 127.0.0.1:{cohort.port(name)}" for name in STRANGE}
    wrong = "check its validity and that both nodes trust the same authority"
    look = "check the address and that node's certificate"
    assert status["absent"] == f"nothing listens for {at['absent']}; is that node started, and the port right?"
    assert status["expired"] == f"the certificate of {at['expired']} is not accepted: certificate has expired; {wrong}"
    assert status["elsewhere"].startswith(f"the certificate of {at['elsewhere']} is not accepted: ")
    assert status["other"] == f"refused to talk to {at['other']}: expected {patient('other')}, met {patient('mallory')}; {look}"
    swapped = f"{patient('swapped')} at localhost:{cohort.port('bob')}"
    assert status["swapped"] == f"refused to talk to {swapped}: expected {patient('swapped')}, met {patient('bob')}; {look}"
    for name in ("plain-tcp", "plain-http"):
        assert status[name] == f"no TLS 1.3 with {at[name]}; is that port a node's?"
    assert status["silent"] == "its time was up before an answer came"
    human = cohortium("status", "--config", cohort.config(HOSPITAL)).stdout
    assert f"\n  absent: nothing listens for {at['absent']}" in human


# -- our daemons as servers


@contextmanager
def _counted(cohort: Cohort, name: str, reason: str) -> Iterator[None]:
    """The daemon counts exactly one refusal for this reason meanwhile."""
    metric = "cohortium_connections_refused_total"
    before = cohort.admin(name).metric(metric, reason=reason)
    yield
    after = cohort.admin(name).metric(metric, reason=reason)
    assert after == before + 1, cohort.admin(name).text("/metrics")


BOTH = pytest.mark.parametrize("name", [HOSPITAL, "alice"])


@BOTH
def test_an_expired_certificate_does_not_get_in(cohort: Cohort, pki_directory: Path, name: str) -> None:
    files = issue(cohort, patient("bob"), pki_directory, expired=True)
    with _counted(cohort, name, "certificate"), pytest.raises(Turned):
        request(cohort.port(name), context(files.authority, files))


@BOTH
def test_a_certificate_of_another_authority_does_not_get_in(cohort: Cohort, pki_directory: Path, name: str) -> None:
    files = issue_elsewhere(cohort, patient("bob"), pki_directory)
    with _counted(cohort, name, "certificate"), pytest.raises(Turned):
        request(cohort.port(name), context(files.authority, files))


@BOTH
def test_nobody_gets_in_without_a_certificate(cohort: Cohort, name: str) -> None:
    with _counted(cohort, name, "no-certificate"), pytest.raises(Turned):
        request(cohort.port(name), context(cohort.directory / "ca" / "ca.crt", None))


@BOTH
def test_tls_1_2_is_refused(cohort: Cohort, name: str) -> None:
    files = files_of(cohort, "bob")
    old = context(files.authority, files)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with _counted(cohort, name, "tls"), pytest.raises(Turned):
        request(cohort.port(name), old)


@BOTH
def test_plain_tcp_is_cut(cohort: Cohort, name: str) -> None:
    with _counted(cohort, name, "tls"), socket.create_connection(("127.0.0.1", cohort.port(name)), SECONDS) as plain:
        plain.sendall(b"EHLO mail.example\r\n")
        while plain.recv(1 << 16):
            pass


@BOTH
def test_plain_http_is_cut(cohort: Cohort, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", cohort.port(name), timeout=SECONDS)
    try:
        with _counted(cohort, name, "tls"):
            connection.request("POST", "/v1/inbox", b"hello")
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                connection.getresponse()
    finally:
        connection.close()


def test_a_hospital_has_no_business_at_a_hospitals_inbox(cohort: Cohort, pki_directory: Path) -> None:
    files = issue(cohort, Identity("demo", Role.HOSPITAL, "other"), pki_directory)
    with _counted(cohort, HOSPITAL, "role"):
        assert request(cohort.port(HOSPITAL), context(files.authority, files), b"hello") == (403, "rejected")


def test_the_invitation_of_another_hospital_is_refused(cohort: Cohort, pki_directory: Path) -> None:
    other = Identity("demo", Role.HOSPITAL, "other")
    files = issue(cohort, other, pki_directory)
    trust = TrustStore.load(files.authority)
    node = load_node_key(files.key, files.certificate, trust, time.time(), other)
    encryption = publish(other, node.private_key, rsa.generate_private_key(65537, 2048), time.time())
    keyring = Keyring(other, node.private_key, node.chain, encryption)
    study = load_study(cohort.directory / HOSPITAL / "studies" / "three.yaml", "demo").study
    machine = HospitalRound(os.urandom(16), keyring, os.urandom, credentials=Credentials(trust), me=node.credential, study=study)
    invitations = [effect for effect in machine.handle(OpenRound(), time.time()) if isinstance(effect, Send)]
    (for_alice,) = [effect.envelope for effect in invitations if effect.recipient == patient("alice")]
    before = cohort.admin("alice").metric("cohortium_messages_received_total", kind="invitation", outcome="sender")
    assert request(cohort.port("alice"), context(files.authority, files), for_alice) == (409, "refused")
    after = cohort.admin("alice").metric("cohortium_messages_received_total", kind="invitation", outcome="sender")
    assert after == before + 1
    assert not cohort.logged("alice", "invitation-decided", round=machine.round_id.hex())


# -- programs that are not ours


def _run(*words: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], input=given, capture_output=True, text=True, timeout=SECONDS, check=False
    )


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def s_client(cohort: Cohort) -> Program:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")

    def run(name: str, *words: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        at = f"127.0.0.1:{cohort.port(name)}"
        ca = cohort.directory / "ca" / "ca.crt"
        return _run("openssl", "s_client", "-connect", at, "-CAfile", ca, "-alpn", "http/1.1", *words, given=given)

    return run


@pytest.fixture
def curl(cohort: Cohort) -> Program:
    if shutil.which("curl") is None:
        pytest.skip("the curl program is not installed")

    def run(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        url = f"https://127.0.0.1:{cohort.port(name)}/v1/inbox"
        return _run("curl", "--silent", "--show-error", "--cacert", cohort.directory / "ca" / "ca.crt", *words, url)

    return run


@BOTH
def test_openssl_agrees_with_a_node_on_tls_1_3_and_gets_no_ticket(cohort: Cohort, s_client: Program, name: str) -> None:
    files = files_of(cohort, "bob")
    asked = "GET /v1/inbox HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    done = s_client(name, "-cert", files.certificate, "-key", files.key, "-verify_return_error", "-ign_eof", given=asked)
    assert done.returncode == 0, done.stderr
    assert "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384" in done.stdout
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "HTTP/1.1 405 Method Not Allowed" in done.stdout
    assert "New Session Ticket" not in done.stdout


@BOTH
def test_openssl_without_a_certificate_or_with_tls_1_2_is_refused(cohort: Cohort, s_client: Program, name: str) -> None:
    with _counted(cohort, name, "no-certificate"):
        done = s_client(name, "-ign_eof")
    assert "alert certificate required" in done.stderr
    files = files_of(cohort, "bob")
    done = s_client(name, "-tls1_2", "-cert", files.certificate, "-key", files.key)
    assert done.returncode != 0
    assert "alert protocol version" in done.stderr


@BOTH
def test_curl_with_a_certificate_is_answered_and_without_is_not(cohort: Cohort, curl: Program, name: str) -> None:
    files = files_of(cohort, "bob")
    shown: list[str | Path] = ["--cert", files.certificate, "--key", files.key]
    posted = curl(
        name, *shown, "--write-out", " %{http_code}", "--header", "Content-Type: application/octet-stream", "--data", "hello"
    )
    assert posted.stdout == "rejected 403", posted.stderr
    with _counted(cohort, name, "no-certificate"):
        refused = curl(name, "--data", "hello")
    assert refused.returncode != 0
    assert "certificate required" in refused.stderr or "reset" in refused.stderr
