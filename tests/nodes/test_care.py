"""Daemons in this process look after their own certificate and those of others: renewed in use, stopped at the end, cut off."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from mpc.keys import check_statement
from nodes.config import check_hospital, check_patient, check_relay
from nodes.fields import address
from nodes.hospital import HospitalDaemon
from nodes.patient import PatientDaemon
from nodes.relay import RelayDaemon
from pki.authority import Authority, _entry
from pki.files import write_certificates, write_private_key
from pki.profile import ListenerNames, leaf_certificate
from scripts.ports import free_ports
from tests.mpc.nodes import CONSORTIUM
from tests.nodes.house import STUDY, Clock, Site, eventually, make_site, nothing_left_over, short_directory, soon

VALUES = {"alice": 725, "bob": 310, "charlie": 540}
DAY = 86_400
GENERAL = Identity(CONSORTIUM, Role.HOSPITAL, "general")
ALICE = Identity(CONSORTIUM, Role.PATIENT, "alice")
POST = Identity(CONSORTIUM, Role.RELAY, "post")


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, VALUES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.keys.DEFAULT_BITS", 2048)
    monkeypatch.setattr("nodes.service._settle", lambda: None)
    monkeypatch.setattr("nodes.service.configure", lambda *_: None)  # the log is captured


@pytest.fixture(autouse=True)
async def nothing_is_left_over() -> AsyncIterator[None]:
    async with nothing_left_over():
        yield


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def events(logged: list[Any], name: str) -> list[Any]:
    return [entry for entry in logged if entry["event"] == name]


def aged(site: Site, identity: Identity, left: float) -> None:
    """A certificate that the authority gave for one day, and that is good for `left` seconds more."""
    authority, began = Authority.load(site.directory / "ca"), time.time() - DAY + left
    key, names = ec.generate_private_key(ec.SECP256R1()), ListenerNames.parse((), ("127.0.0.1",))
    certificate = leaf_certificate(identity, key.public_key(), names, authority.root.x509, authority._key, began, 1)
    with authority.register.locked() as book:
        book.append(_entry(certificate, identity.uri, 1, began))
    write_private_key(site.directory / f"{identity.name}.key", key, force=True)
    write_certificates(site.directory / f"{identity.name}.crt", [certificate], force=True)


def say(path: Path, **keys: Any) -> Path:
    """More keys for a configuration."""
    config = yaml.safe_load(path.read_text()) | {"revocation": {"every": 1}} | keys
    path.write_text(yaml.safe_dump(config))
    return path


def with_authority(site: Site) -> Path:
    """The hospital's configuration, which holds the authority."""
    return say(site.hospital, enrolment={"listen": f"127.0.0.1:{free_ports(1)[0]}", "authority": "ca"})


@contextlib.asynccontextmanager
async def running(daemon: HospitalDaemon | PatientDaemon | RelayDaemon, read: Callable[[], Any]) -> AsyncIterator[None]:
    """The daemon at work, from its first moment of readiness on, however it ends."""
    task: asyncio.Task[None] = asyncio.create_task(daemon.run(read))
    try:
        await eventually(lambda: not daemon.not_ready() or task.done())
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class Guest:
    """A connection to a node's listener, by alice's certificate, and the certificate that was shown to her."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def shown(self) -> x509.Certificate:
        der = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der)

    async def ask(self) -> int:
        """The status of one more answer on this connection."""
        self.writer.write(b"GET /v1/revocations HTTP/1.1\r\nHost: node\r\n\r\n")
        head = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode()
        lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        await self.reader.readexactly(int(lengths[0]))
        return int(head.split()[1])


@contextlib.asynccontextmanager
async def guest(site: Site, listen: str, name: str = "alice") -> AsyncIterator[Guest]:
    context = ssl.create_default_context(cafile=str(site.directory / "ca" / "ca.crt"))
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(site.directory / f"{name}.crt", site.directory / f"{name}.key")
    host, port = address(listen)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        yield Guest(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# -- its own certificate


async def test_a_daemon_renews_in_use_and_keeps_what_it_got(
    site: Site, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority cannot sign at first, so that there is a connection from before."""
    monkeypatch.setattr("nodes.renewal._SHORTEST_PAUSE", 0.05)
    aged(site, GENERAL, 100)
    path, register = with_authority(site), site.directory / "ca" / "register.jsonl"
    config = check_hospital(path)
    daemon = HospitalDaemon(config)
    first = daemon.credential
    register.rename(site.directory / "aside")
    register.mkdir()
    async with running(daemon, lambda: config):
        await eventually(lambda: bool(events(logged, "renewal-failed")))
        async with guest(site, config.listen) as before:
            status = await before.ask()
            assert daemon.status()["renewal_trouble"]
            register.rmdir()
            (site.directory / "aside").rename(register)
            await eventually(lambda: bool(events(logged, "identity-renewed")))
            assert status == 404, "it had no list to hand on"
            assert await before.ask() in (200, 404), "the connection from before goes on"
            async with guest(site, config.listen) as after:
                assert after.shown.serial_number != before.shown.serial_number
                assert f"{after.shown.serial_number:x}" == events(logged, "identity-renewed")[0]["serial"]
        assert daemon.credential.not_after > first.not_after
        assert daemon.status()["renewal_trouble"] == ""
        renewed = daemon.credential
        assert check_statement(daemon.keys.keyring.encryption.statement, renewed, time.time()).node == GENERAL
        assert daemon.keys.keyring.certificate_digest == renewed.digest
    assert b"PRIVATE KEY" not in (config.state / "identity.sealed").read_bytes()
    again = HospitalDaemon(config)
    assert again.credential == renewed
    await again.driver.stop(0)


async def test_a_relay_is_renewed_by_the_node_that_its_configuration_names(site: Site, logged: list[Any]) -> None:
    aged(site, POST, 100)
    relay = site.directory / "post.yaml"
    relay.write_text(
        f"consortium: {CONSORTIUM}\nname: post\nidentity: {{key: post.key, certificate: post.crt, authorities: [ca/ca.crt]}}\n"
        f'listen: "127.0.0.1:{free_ports(1)[0]}"\nadmin: post.sock\nstate: post.state\n'
    )
    hospital = check_hospital(with_authority(site))
    say(relay, authority={"role": "hospital", "name": "general", "url": f"https://{hospital.listen}"})
    config = check_relay(relay)
    desk, daemon = HospitalDaemon(hospital), RelayDaemon(config)
    async with running(desk, lambda: hospital), running(daemon, lambda: config):
        await eventually(lambda: bool(events(logged, "identity-renewed")))
        await eventually(lambda: bool(daemon.care.revocations.status()))
        async with guest(site, config.listen) as alice:
            assert await alice.ask() == 200, "it hands the lists on"
    assert (config.state / "identity.pem").stat().st_mode & 0o777 == 0o600
    [granted] = events(logged, "renewal-granted")
    assert granted["identity"] == POST.uri
    assert RelayDaemon(config).credential == daemon.credential


async def test_a_certificate_that_ends_stops_the_daemon_with_a_reason(
    site: Site, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.renewal._SHORTEST_PAUSE", 0.2)
    aged(site, ALICE, 3)
    config = check_patient(say(site.patients["alice"]))
    with pytest.raises(IdentityError) as caught:
        async with asyncio.timeout(20):
            await PatientDaemon(config).run(lambda: config)
    assert caught.value.exit_status == 77
    assert "has expired on" in str(caught.value)
    assert "it could not be renewed: nothing listens for spiffe://demo/hospital/general" in str(caught.value)
    assert events(logged, "renewal-failed")
    [lost] = events(logged, "identity-lost")
    assert lost["reason"] == str(caught.value)
    assert [str(entry["event"]) for entry in logged][-2:] == ["stopping", "stopped"], "in order"


# -- those of others


async def test_a_revoked_member_ends_the_round_and_it_is_opened_again_without(
    logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.upkeep.Own.seconds", 0.05)
    values = VALUES | {"dora": 41}
    study = STUDY.replace("charlie]", "charlie, dora], minimum: 3")
    async with contextlib.AsyncExitStack() as stack:
        site = make_site(stack.enter_context(short_directory()), values, study)
        hospital_config = check_hospital(with_authority(site))
        hospital = HospitalDaemon(hospital_config)
        configs = {name: check_patient(say(path)) for name, path in site.patients.items()}
        patients = {name: PatientDaemon(config) for name, config in configs.items()}

        async def start(name: str) -> None:
            await stack.enter_async_context(running(patients[name], lambda: configs[name]))

        await stack.enter_async_context(running(hospital, lambda: hospital_config))
        for name in ("alice", "bob", "charlie"):
            await start(name)
        await eventually(lambda: all(patients[name].care.revocations.status() for name in ("alice", "bob", "charlie")))
        async with guest(site, hospital_config.listen, "bob") as bob, guest(site, hospital_config.listen) as alice:
            assert await bob.ask() == await alice.ask() == 200
            first = await hospital.open_round("pressure")
            await eventually(lambda: first.waiting_for == ("dora",))
            Authority.load(site.directory / "ca").revoke_identity(
                Identity(CONSORTIUM, Role.PATIENT, "bob"), "keyCompromise", time.time()
            )
            await eventually(lambda: first.outcome != "open")
            assert (first.code, first.missing) == ("member-revoked", ("bob",))
            assert await soon(bob.reader.read()) == b"", "his connection is cut"
            assert await alice.ask() == 200, "hers is not"
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with guest(site, hospital_config.listen, "bob") as bob:
                await bob.ask()
        assert 'cohortium_connections_refused_total{reason="revoked"}' in hospital.metrics.render()
        await start("dora")
        second = hospital.records.all()[-1]
        await eventually(lambda: second.ended)
        assert (second.outcome, second.attempt) == ("released", 2)
        full = await hospital.full(second)
        assert full["statistics"] == {"value": {"sum": 725 + 540 + 41}}
    assert {entry["node"] for entry in events(logged, "connections-cut")} >= {GENERAL.uri}


async def test_a_list_in_a_file_is_obeyed_from_the_reload_on(site: Site, logged: list[Any], tmp_path: Path) -> None:
    """Two authorities' worth of mistakes first: what is refused leaves the list before."""
    authority, file = Authority.load(site.directory / "ca"), tmp_path / "ca.crl"
    config = check_hospital(say(site.hospital, revocation={"every": 3600, "file": str(file)}))
    file.write_bytes(authority.revocation_list(time.time()).der)
    daemon = HospitalDaemon(config)
    async with running(daemon, lambda: config), guest(site, config.listen) as alice:
        assert await alice.ask() == 200
        foreign = Authority.create(tmp_path / "other", CONSORTIUM, time.time())
        file.write_bytes(foreign.revocation_list(time.time()).der)
        assert not await daemon.reload(lambda: config)
        assert f"{file}: the revocation list of" in events(logged, "reload-refused")[0]["reason"]
        assert await alice.ask() == 200
        authority.revoke_identity(ALICE, "cessationOfOperation", time.time())
        file.write_bytes(authority.revocation_list(time.time()).der)
        assert await daemon.reload(lambda: config)
        assert await soon(alice.reader.read()) == b""
        assert [line["connections"] for line in events(logged, "connections-cut")] == [1]
        kept_list = config.state / "revocations.pem"
        kept_list.rename(tmp_path / "elsewhere")  # as if the disk had been full
        file.unlink()
        bare = check_hospital(say(site.hospital))
        assert await daemon.reload(lambda: bare)
        assert [one["number"] for one in daemon.care.revocations.status()] == [2], "no reload takes a list back"
        (tmp_path / "elsewhere").rename(kept_list)
    kept = HospitalDaemon(check_hospital(say(site.hospital)))
    assert [one["number"] for one in kept.care.revocations.status()] == [2], "and it is kept"
    await kept.driver.stop(0)


async def test_a_node_that_finds_itself_on_a_new_list_stops(
    site: Site, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.upkeep.Own.seconds", 0.05)
    config = check_hospital(with_authority(site))
    daemon = HospitalDaemon(config)
    task = asyncio.create_task(daemon.run(lambda: config))
    await eventually(lambda: bool(events(logged, "revocations-taken")))
    Authority.load(site.directory / "ca").revoke_identity(GENERAL, "keyCompromise", time.time())
    with pytest.raises(IdentityError, match="the certificate of spiffe://demo/hospital/general was revoked on"):
        await soon(task)
    assert len(events(logged, "identity-lost")) == 1


async def test_a_node_on_the_list_does_not_start(site: Site) -> None:
    authority = Authority.load(site.directory / "ca")
    authority.revoke_identity(GENERAL, "keyCompromise", time.time())
    file = site.directory / "ca.crl"
    file.write_bytes(authority.revocation_list(time.time()).der)
    with pytest.raises(IdentityError, match="was revoked on") as caught:
        HospitalDaemon(check_hospital(say(site.hospital, revocation={"file": str(file)})))
    assert caught.value.exit_status == 77


async def test_lists_that_are_too_old_let_nobody_in_until_a_new_one_comes(site: Site, tmp_path: Path, logged: list[Any]) -> None:
    authority, file = Authority.load(site.directory / "ca"), tmp_path / "ca.crl"
    old = authority.revocation_list(time.time() - 100, days=1)
    file.write_bytes(old.der)
    rules = {"every": 1, "warn_after": 0, "refuse_after": 0, "file": str(file)}
    config = check_hospital(say(site.hospital, revocation=rules))
    daemon = HospitalDaemon(config)
    clock = Clock(time.time())
    async with running(daemon, lambda: config), guest(site, config.listen) as alice:
        assert await alice.ask() == 200
        with pytest.MonkeyPatch.context() as later:
            clock.now = old.next_update + 1
            for module in ("nodes.care", "nodes.revocation"):
                later.setattr(f"{module}.time", clock)
            assert await soon(alice.reader.read()) == b""
            assert events(logged, "revocations-old")[0]["log_level"] == "error"
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with guest(site, config.listen) as again:
                    await again.ask()
        async with guest(site, config.listen) as again:
            assert await again.ask() == 200
