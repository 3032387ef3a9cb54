"""Looks a node over from outside, before or while its daemon runs: each check is one line that says what is wrong and what to do.

Nothing is changed, and nothing secret is shown. Peers are met as the daemon would meet them, over mutual TLS with the
node's own certificate, and are asked for nothing but the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import sqlite3
import ssl
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mpc.errors import CohortiumError, ConfigError, IdentityError, TemporaryError
from mpc.identity import Identity, Role
from mpc.keys import CLOCK_SKEW
from nodes.admin.client import AdminClient
from nodes.config import HospitalConfig, PatientConfig, RelayConfig, check_hospital, check_patient, check_relay
from nodes.fields import address
from nodes.loaded import Loaded, load
from nodes.store.open import FILE
from nodes.store.sealing import StorageKey, credentials_directory
from nodes.transport.inbox import PATH
from nodes.transport.tls import NodeContext, client_context
from nodes.yaml_struct import examine
from pki.certificate import utc
from pki.node import NodeKey

Config = HospitalConfig | PatientConfig | RelayConfig

RELAY_FILE = "relay.db"
_PEER_SECONDS = 10.0
_PEERS_AT_ONCE = 16
_WARN_DAYS = 7
_DAY = 24 * 3600
_WARN_FREE_BYTES = 1 << 30
_FAIL_FREE_BYTES = 64 << 20
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 1024  # struct timex is 208 bytes on 64-bit Linux; the kernel writes no more than that


class Verdict(StrEnum):
    """Of one check."""

    OK = "ok"
    WARN = "warn"
    """Works now; somebody should look."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line."""

    name: str
    verdict: Verdict
    text: str
    """What was found and, unless that is good, what to do."""
    runs: bool = False
    """Of the check "daemon": whether it answers."""


def read_any(path: Path) -> Config:
    """The configuration of whichever node `path` describes. Raises ConfigError that lists every problem."""
    described = examine(path, HospitalConfig).lines
    if ("studies",) in described or ("patients",) in described:
        return check_hospital(path)
    return check_patient(path) if ("hospital",) in described or ("policy",) in described else check_relay(path)


async def look_over(path: Path) -> AsyncIterator[Check]:
    """Every check of the node that the configuration file `path` describes, as each is made."""
    try:
        config = read_any(path)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield Check("configuration", Verdict.FAIL, problem)
        return
    yield Check("configuration", Verdict.OK, f"{path} is complete")
    yield _permissions(path, config)
    loaded = None
    try:
        loaded = load(config)
    except CohortiumError as error:
        yield Check("keys", Verdict.FAIL, str(error))
    else:
        yield _keys(loaded)
        yield _certificate(loaded.node_key)
        yield _revocation(loaded)
    yield _clock()
    daemon = await _daemon(config)
    yield daemon
    yield await _store(config, runs=daemon.runs)
    yield _disk(config)
    if loaded is not None:
        async for check in _peers(loaded):
            yield check


def _permissions(path: Path, config: Config) -> Check:
    holds_values = isinstance(config, PatientConfig) and any(source.literal is not None for source in config.sources.values())
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        return Check("permissions", Verdict.FAIL, f"others may write {path} (mode {mode:04o}); run: chmod go-w {path}")
    if holds_values and mode & 0o044:
        return Check("permissions", Verdict.WARN, f"{path} holds values and others may read it; run: chmod go-r {path}")
    return Check("permissions", Verdict.OK, f"nobody else may change {path}" + (" or read it" if holds_values else ""))


def _keys(loaded: Loaded[Any]) -> Check:
    if loaded.notes:
        return Check("keys", Verdict.WARN, "; ".join(text for _, text in loaded.notes))
    return Check("keys", Verdict.OK, f"key, certificate and authorities belong together, for {loaded.node_key.identity}")


def _revocation(loaded: Loaded[Any]) -> Check:
    """How old the lists are that the node keeps; none at all is no fault, as an authority need not make any."""
    rules, now = loaded.config.revocation, time.time()
    lists = sorted((listed.revocations for listed in loaded.trust.lists), key=lambda found: found.next_update)
    if not lists:
        return Check("revocation", Verdict.OK, "no revocation list is known here, so nobody is revoked")
    oldest = lists[0]
    text = f"{oldest}, is good until {utc(oldest.next_update)}"
    if now <= oldest.next_update + rules.warn_after:
        return Check("revocation", Verdict.OK, text)
    verdict = Verdict.FAIL if now > oldest.next_update + rules.refuse_after else Verdict.WARN
    return Check("revocation", verdict, f"{text}; have the authority make a new one, and see why this node does not get it")


def _certificate(key: NodeKey) -> Check:
    left = key.credential.not_after - time.time()
    until = utc(int(key.credential.not_after))
    if left < _WARN_DAYS * _DAY:
        return Check(
            "certificate",
            Verdict.WARN,
            f"ends on {until}, in {left / _DAY:.1f} days; issue a new one with 'cohortium pki issue' and reload the daemon",
        )
    return Check("certificate", Verdict.OK, f"valid until {until}, {left / _DAY:.0f} days from now")


def _clock() -> Check:
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except AttributeError:  # not Linux
        state = -1
    if state == _TIME_ERROR:
        return Check("clock", Verdict.WARN, "no time service sets it; start one (timedatectl set-ntp true)")
    if state < 0:
        return Check("clock", Verdict.OK, "its time service cannot be asked here; see what the peers' clocks say below")
    return Check("clock", Verdict.OK, "a time service sets it")


async def _daemon(config: Config) -> Check:
    try:
        async with AdminClient(config.admin) as admin:
            status = await admin.get("/v1/status")
    except TemporaryError as error:
        if config.listen is not None and await _listens(config.listen):
            return Check("daemon", Verdict.FAIL, f"{error} Something else listens on {config.listen}; stop it")
        return Check("daemon", Verdict.WARN, str(error))
    reasons = status.get("not_ready", [])
    if reasons:
        return Check("daemon", Verdict.FAIL, f"runs and takes no new work: {', '.join(reasons)}; its log tells more", runs=True)
    refused = status.get("last_reload", {}).get("reason")
    if refused:
        text = f"runs with an older configuration, the last reload was refused: {refused}"
        return Check("daemon", Verdict.WARN, text, runs=True)
    return Check("daemon", Verdict.OK, f"answers at {config.admin}", runs=True)


async def _listens(listen: str) -> bool:
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(*address(listen))
    except OSError:
        return False
    writer.close()
    return True


async def _store(config: Config, *, runs: bool) -> Check:
    """Looks without writing: even a journal that SQLite made for another user could keep the daemon out."""
    if not config.state.exists():
        return Check("store", Verdict.OK, f"{config.state} is not there yet; the daemon makes it when it first starts")
    if stat.S_IMODE(config.state.stat().st_mode) & 0o077:
        return Check("store", Verdict.FAIL, f"others may look into {config.state}; run: chmod 700 {config.state}")
    if not isinstance(config, RelayConfig):
        try:
            StorageKey.load(config.storage_key, credentials_directory(os.environ))
        except IdentityError as error:
            return Check("store", Verdict.FAIL, str(error))
    if config.store is not None:
        host, port = urlsplit(config.store).hostname or "localhost", urlsplit(config.store).port or 5432
        if await _listens(f"{host}:{port}"):
            return Check("store", Verdict.OK, f"a database listens on {host}:{port}")
        return Check("store", Verdict.FAIL, f"no database listens on {host}:{port}; start it, or correct 'store'")
    file = config.state / (FILE if not isinstance(config, RelayConfig) else RELAY_FILE)
    if runs or not file.exists():
        return Check("store", Verdict.OK, f"in {config.state}" + (", used by the daemon now" if runs else ", still empty"))
    trouble = await asyncio.to_thread(_quick_check, file)
    if trouble:
        return Check("store", Verdict.FAIL, f"{file} is damaged: {trouble}; bring it back from a backup")
    return Check("store", Verdict.OK, f"{file} is whole")


def _quick_check(file: Path) -> str:
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as database:
            [found] = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else str(found)


def _disk(config: Config) -> Check:
    place = next(one for one in (config.state, *config.state.parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < _FAIL_FREE_BYTES:
        return Check("disk", Verdict.FAIL, f"{text}; make room, or nothing can be kept")
    if free < _WARN_FREE_BYTES:
        return Check("disk", Verdict.WARN, f"{text}; make room soon")
    return Check("disk", Verdict.OK, text)


def peers_of(config: Config) -> dict[Identity, str]:
    """Everybody whose address the configuration knows and whom this node connects to there, and the address."""
    if isinstance(config, RelayConfig):
        return {}
    peers: dict[Identity, str] = {}
    if config.relay is not None:
        peers[Identity(config.consortium, Role.RELAY, config.relay.name)] = config.relay.url
    if isinstance(config, HospitalConfig):
        known = config.patients
    else:
        peers[Identity(config.consortium, Role.HOSPITAL, config.hospital.name)] = config.hospital_url
        known = config.peers
    peers |= {Identity(config.consortium, Role.PATIENT, name): url for name, url in known.items()}
    return {peer: url for peer, url in peers.items() if urlsplit(url).scheme == "https"}


async def _peers(loaded: Loaded[Any]) -> AsyncIterator[Check]:
    config: Config = loaded.config
    if isinstance(config, PatientConfig) and config.proxy is not None:
        yield Check("peers", Verdict.WARN, "not met: this node reaches them through a proxy; its log tells how that goes")
        return
    trust = loaded.trust
    context = client_context(loaded.node_key, trust.roots, lambda chain: trust.verify(chain, time.time()).identity)
    room = asyncio.Semaphore(_PEERS_AT_ONCE)

    async def meet(peer: Identity, url: str) -> Check:
        async with room:
            return await _peer(peer, url, context)

    tasks = [asyncio.create_task(meet(peer, url)) for peer, url in peers_of(config).items()]
    for task in tasks:
        yield await task


async def _peer(peer: Identity, url: str, context: NodeContext) -> Check:
    name = f"peer {peer.name}"
    began = time.monotonic()
    try:
        async with asyncio.timeout(_PEER_SECONDS):
            theirs = await _ask_time(peer, url, context)
    except (OSError, TimeoutError) as error:
        return Check(name, Verdict.FAIL, f"{_why_not_met(error)} ({url})")
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    if theirs is None:
        return Check(name, Verdict.WARN, f"met {peer} at {url}, but it does not answer as a node; is that its port?")
    apart = time.time() - theirs
    if abs(apart) > CLOCK_SKEW:
        direction = "ahead of" if apart > 0 else "behind"
        return Check(
            name,
            Verdict.FAIL,
            f"met {peer} in {took}, but this machine's clock is {abs(apart):.0f} s {direction} its clock, and "
            f"{CLOCK_SKEW} s are allowed; set the clock that is wrong",
        )
    return Check(name, Verdict.OK, f"met {peer} at {url} in {took}, clocks agree")


async def _ask_time(peer: Identity, url: str, context: NodeContext) -> float | None:
    """The other end's clock (Unix seconds), which it tells in its answer to a request that it does not take."""
    parts = urlsplit(url)
    assert parts.hostname is not None, "the configuration takes only https://HOST:PORT"
    assert parts.port is not None, "the configuration takes only https://HOST:PORT"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context, server_hostname=peer.uri, limit=4096)
    try:
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        first = await reader.readline()
        if not first:
            raise ConnectionResetError("closed without an answer")
        date = None
        while (line := await reader.readline()).strip():
            key, _, value = line.decode("latin-1").partition(":")
            date = value.strip() if key.lower() == "date" else date
    except ValueError:  # a line without end
        return None
    finally:
        writer.transport.abort()
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _why_not_met(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "does not answer in time; is it up, and the firewall open?"
        case ssl.SSLCertVerificationError(verify_message=str(message)):
            return f"its certificate is not accepted: {message}; check its validity and that both trust the same authority"
        case ssl.SSLCertVerificationError():
            return f"is somebody else, or has a certificate that no node may have: {error}; check the address"
        case ssl.SSLError() if "_ALERT_" in (error.reason or ""):
            return "does not accept this node's certificate; check that it trusts this node's authority"
        case ssl.SSLError():
            return "speaks no TLS 1.3 there; is that port a node's?"
        case ConnectionRefusedError():
            return "nothing listens there; start that node, or correct its address"
        case ConnectionError():
            return "closes the connection without an answer; it is at its limits, or does not accept this node's certificate"
        case _:
            return f"cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}; check address and network"
