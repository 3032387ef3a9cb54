"""Real daemon processes as services: what the manager hears, reload, drain, exit statuses, monitoring, guests who misbehave."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.daemons import Daemons
from scripts.deployment import HOSPITAL, STUDY, Deployment
from tests.services import (
    SUM,
    Manager,
    add,
    cohortium,
    config_of,
    free_port,
    http,
    log_of,
    logged,
    manager,
    metric,
    until,
    write_deployment,
)

HOUR = 3600

pytestmark = pytest.mark.slow


def status(deployment: Deployment, name: str) -> dict[str, Any]:
    done = cohortium("status", "--json", "--config", config_of(deployment, name))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def open_round(deployment: Deployment, *options: str) -> dict[str, Any]:
    done = cohortium("round", "open", STUDY, "--config", deployment.hospital_config, "--json", *options)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def sum_of(final: dict[str, Any]) -> int:
    assert final["outcome"] == "released", final
    return int(final["statistics"]["value"]["sum"])


def tell(daemons: Daemons, name: str, number: signal.Signals) -> None:
    daemons.children[name].process.send_signal(number)


def ended(daemons: Daemons, name: str, seconds: float = 20) -> int:
    """The exit status of a daemon that is about to end."""
    return daemons.children.pop(name).process.wait(seconds)


Start = Callable[..., Daemons]


def launch(
    stack: ExitStack,
    directory: Path,
    *names: str,
    prepare: Callable[[Deployment], None] = lambda _: None,
    limits: dict[str, Any] | None = None,
    **question: Any,
) -> Daemons:
    """Starts these nodes of a deployment, its hospital with a health port in `deployment.ports["health"]`."""
    deployment = write_deployment(directory, limits, **question)
    deployment.ports["health"] = free_port()
    add(deployment.hospital_config, f'health: {{listen: "127.0.0.1:{deployment.ports["health"]}"}}\n')
    prepare(deployment)
    daemons = Daemons(deployment)
    stack.callback(daemons.stop)
    for name in names or (HOSPITAL, *deployment.names):
        daemons.start(name)
    daemons.wait_until_ready()
    return daemons


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """See `launch`. All of it ends with the test."""
    with ExitStack() as stack:
        yield lambda *names, **options: launch(stack, tmp_path_factory.mktemp("e"), *names, **options)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """A hospital and three patients for every test that leaves them as they were."""
    with ExitStack() as stack:
        yield launch(stack, tmp_path_factory.mktemp("house"))


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """The manager of every daemon that the test starts."""
    address = str(tmp_path_factory.mktemp("n") / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as listening:
        yield listening


# ---- what the manager hears


def test_a_daemon_tells_when_it_is_ready_reloads_and_stops(start: Start, systemd: Manager) -> None:
    daemons = start(HOSPITAL)
    ready = systemd.hear("READY=1")
    assert f"STATUS=listening on 127.0.0.1:{daemons.deployment.ports[HOSPITAL]}" in ready
    tell(daemons, HOSPITAL, signal.SIGHUP)
    assert systemd.hear("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
    systemd.hear("READY=1")
    tell(daemons, HOSPITAL, signal.SIGTERM)
    systemd.hear("STOPPING=1")
    assert ended(daemons, HOSPITAL) == 0


def test_a_reload_that_is_refused_ends_too_and_says_so(start: Start, systemd: Manager) -> None:
    daemons = start(HOSPITAL)
    systemd.hear("READY=1")
    add(daemons.deployment.hospital_config, "bogus: 1\n")
    tell(daemons, HOSPITAL, signal.SIGHUP)
    systemd.hear("RELOADING=1")
    assert "refused" in "".join(systemd.hear("READY=1"))


def test_the_watchdog_is_fed_while_the_daemon_lives(start: Start, systemd: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    daemons = start(HOSPITAL)
    systemd.hear("WATCHDOG=1")
    systemd.hear("WATCHDOG=1")
    tell(daemons, HOSPITAL, signal.SIGSTOP)  # a daemon that hangs
    systemd.silent_for(0.05)  # one may have been under way
    assert systemd.silent_for(0.5)
    tell(daemons, HOSPITAL, signal.SIGCONT)
    systemd.hear("WATCHDOG=1")


# ---- reload


def test_a_reload_takes_new_patients_studies_and_level_without_a_restart(start: Start) -> None:
    daemons = start()
    deployment = daemons.deployment
    process = daemons.children[HOSPITAL].process.pid
    study = deployment.directory / HOSPITAL / "studies" / f"{STUDY}.yaml"
    study.with_name("second.yaml").write_text(study.read_text().replace(STUDY, "second"))
    add(deployment.hospital_config, "log: {level: debug}\n")
    tell(daemons, HOSPITAL, signal.SIGHUP)
    until(lambda: logged(daemons, HOSPITAL, "reloaded"), "the reload")
    final = json.loads(
        cohortium("round", "open", "second", "--config", deployment.hospital_config, "--watch", "--json").stdout.splitlines()[-1]
    )
    assert sum_of(final) == SUM
    assert logged(daemons, HOSPITAL, "round-phase"), "debug lines"
    assert daemons.children[HOSPITAL].process.pid == process
    assert metric(http(deployment.ports["health"], "/metrics")[1], "cohortium_last_reload_success") == 1


def test_a_patient_that_no_longer_consents_declines_from_its_reload_on(start: Start) -> None:
    daemons = start()
    deployment = daemons.deployment
    config = deployment.patient_config("bob")
    config.write_text(config.read_text().replace("policy:\n", 'policy:\n  studies: ["another"]\n'))
    tell(daemons, "bob", signal.SIGHUP)
    until(lambda: logged(daemons, "bob", "reloaded"), "the reload")
    final = open_round(deployment, "--watch")
    assert final["outcome"] == "aborted"
    [decision] = logged(daemons, "bob", "invitation-decided")
    assert decision["reason"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text + "bogus: 1\n", "bogus: is not a known key"),
        (lambda text: text.replace("hospital.key", "nowhere.key"), "nowhere.key does not exist"),
        (
            lambda text: text.replace('admin: "admin.sock"', 'admin: "other.sock"'),
            "admin: cannot change",
        ),
        (lambda text: text[:40], ""),
    ],
    ids=["unknown key", "no key", "needs a restart", "half a file"],
)
def test_a_configuration_that_cannot_be_used_changes_nothing(house: Daemons, change: Callable[[str], str], reason: str) -> None:
    deployment = house.deployment
    before = len(logged(house, HOSPITAL, "reload-refused"))
    good = deployment.hospital_config.read_text()
    deployment.hospital_config.write_text(change(good))
    tell(house, HOSPITAL, signal.SIGHUP)
    [refused] = until(lambda: logged(house, HOSPITAL, "reload-refused")[before:], "the refusal")
    deployment.hospital_config.write_text(good)
    assert reason in refused["reason"]
    text = http(deployment.ports["health"], "/metrics")[1]
    assert metric(text, "cohortium_last_reload_success") == 0
    told = status(deployment, HOSPITAL)
    assert (told["state"], told["last_reload"]["success"]) == ("ready", False)
    assert reason in told["last_reload"]["reason"]
    assert sum_of(open_round(deployment, "--watch")) == SUM


def peer_certificate(deployment: Deployment, name: str) -> bytes:
    """What a daemon shows to one who connects, DER."""
    directory = deployment.directory / "alice"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(deployment.directory / "ca" / "ca.crt")
    context.load_cert_chain(directory / "alice.crt", directory / "alice.key")
    with (
        socket.create_connection(("127.0.0.1", deployment.ports[name]), 5) as raw,
        context.wrap_socket(raw) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_a_renewed_key_and_certificate_serve_at_once_and_the_open_round_ends_well(start: Start) -> None:
    daemons = start(HOSPITAL, "alice", "bob", deadline=60)
    deployment = daemons.deployment
    opened = open_round(deployment)
    until(lambda: logged(daemons, "alice", "invitation-decided"), "alice's decision")
    before = peer_certificate(deployment, HOSPITAL)
    done = cohortium(
        *("pki", "issue", f"hospital/{HOSPITAL}", "--ip", "127.0.0.1", "--dir", deployment.directory / "ca"),
        *("--out", deployment.directory, "--per-node", "--force"),
    )
    assert done.returncode == 0, done.stderr
    tell(daemons, HOSPITAL, signal.SIGHUP)
    until(lambda: logged(daemons, HOSPITAL, "reloaded"), "the reload")
    assert peer_certificate(deployment, HOSPITAL) != before
    daemons.start("charlie")
    daemons.wait_until_ready()
    shown = cohortium("round", "show", opened["round"], "--config", deployment.hospital_config, "--json")

    def final() -> Any:
        answer = cohortium("round", "show", opened["round"], "--config", deployment.hospital_config, "--json")
        found = json.loads(answer.stdout)
        return found if found["outcome"] != "open" else None

    assert shown.returncode == 0
    assert sum_of(until(final, "the result")) == SUM


# ---- stop


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and says nothing: a delivery to there is under way for long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def hold_a_delivery(deployment: Deployment, port: int, timeout: int) -> None:
    config = deployment.hospital_config
    config.write_text(config.read_text().replace(f"https://127.0.0.1:{deployment.ports['charlie']}", f"https://127.0.0.1:{port}"))
    add(config, f"shutdown_timeout: {timeout}\n")


def test_a_daemon_that_drains_says_so_and_ends_in_time(start: Start, silent: int) -> None:
    daemons = start(HOSPITAL, prepare=lambda deployment: hold_a_delivery(deployment, silent, 2))
    port = daemons.deployment.ports["health"]
    assert http(port, "/readyz") == (200, "ready\n")
    open_round(daemons.deployment)
    began = time.monotonic()
    tell(daemons, HOSPITAL, signal.SIGTERM)
    assert until(lambda: http(port, "/readyz")[0] == 503, "draining", 1)
    assert "draining" in http(port, "/readyz")[1]
    assert ended(daemons, HOSPITAL) == 0
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(start: Start, silent: int, second: signal.Signals) -> None:
    daemons = start(HOSPITAL, prepare=lambda deployment: hold_a_delivery(deployment, silent, 600))
    open_round(daemons.deployment)
    tell(daemons, HOSPITAL, signal.SIGTERM)
    until(lambda: logged(daemons, HOSPITAL, "stopping"), "the first signal")
    tell(daemons, HOSPITAL, second)
    assert daemons.children[HOSPITAL].process.wait(2) == 1
    assert logged(daemons, HOSPITAL, "stopped")[0]["forced"] is True
    del daemons.children[HOSPITAL]


def test_an_idle_daemon_stops_at_once(start: Start) -> None:
    daemons = start("alice")
    began = time.monotonic()
    tell(daemons, "alice", signal.SIGINT)
    assert ended(daemons, "alice") == 0
    assert time.monotonic() - began < 3


# ---- exit statuses


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return write_deployment(tmp_path_factory.mktemp("files"))


def starting_with(deployment: Deployment, directory: Path, change: Callable[[str], str]) -> subprocess.CompletedProcess[str]:
    """A hospital whose configuration is changed, which is expected to end by itself."""
    config = deployment.hospital_config.with_name(f"{directory.name}.yaml")
    config.write_text(change(deployment.hospital_config.read_text()))
    return cohortium("hospital", "--config", config)


def test_wrong_usage_is_2(files: Deployment) -> None:
    assert cohortium("hospital").returncode == 2
    assert cohortium("hospital", "--config").returncode == 2


def test_a_refused_identity_is_77(files: Deployment, tmp_path: Path) -> None:
    done = starting_with(files, tmp_path, lambda text: text.replace("hospital.crt", "../alice/alice.crt"))
    assert done.returncode == 77
    assert "alice.crt" in done.stderr


def test_a_wrong_configuration_is_78(files: Deployment, tmp_path: Path) -> None:
    done = starting_with(files, tmp_path, lambda text: text + "bogus: 1\n")
    assert done.returncode == 78
    assert "bogus" in done.stderr


def test_a_port_in_use_is_78(files: Deployment, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", files.ports[HOSPITAL])):
        done = starting_with(files, tmp_path, lambda text: text)
    assert done.returncode == 78
    assert "another program uses that port" in done.stderr


def test_a_store_that_is_away_is_75(files: Deployment, tmp_path: Path) -> None:
    pytest.importorskip("asyncpg", reason="without asyncpg no PostgreSQL store is asked for")
    away = f"store: postgresql://nobody@127.0.0.1:{free_port()}/nowhere\n"
    assert starting_with(files, tmp_path, lambda text: text + away).returncode == 75


def test_no_daemon_is_75(files: Deployment) -> None:
    assert cohortium("status", "--config", files.patient_config("alice")).returncode == 75


# ---- monitoring


def test_health_readiness_and_metrics_of_a_daemon_at_work(house: Daemons) -> None:
    deployment = house.deployment
    port = deployment.ports["health"]
    assert http(port, "/healthz") == (200, "ok\n")
    assert http(port, "/readyz") == (200, "ready\n")
    assert sum_of(open_round(deployment, "--watch")) == SUM
    code, text = http(port, "/metrics")
    assert code == 200
    released = metric(text, 'cohortium_rounds_total{outcome="released",code="none"}')
    assert released >= 1
    for phase in ("inviting", "sharing", "collecting"):
        assert metric(text, f'cohortium_round_phase_seconds_count{{phase="{phase}"}}') == released
    not_after = status(deployment, HOSPITAL)["certificate_not_after"]
    assert metric(text, "cohortium_certificate_not_after_timestamp_seconds") == not_after
    assert metric(text, "cohortium_connections") >= 3


def test_a_message_can_be_followed_from_its_sender_to_its_receiver(house: Daemons) -> None:
    for name in (HOSPITAL, *house.deployment.names):
        assert cohortium("log", "debug", "--config", config_of(house.deployment, name)).returncode == 0
    assert sum_of(open_round(house.deployment, "--watch")) == SUM
    sent = until(lambda: len(found := logged(house, "alice", "message-sent")) >= 4 and found, "alice's messages")
    for line in sent:
        taken = [one["message"] for one in logged(house, line["recipient"], "message-taken")]
        assert line["message"] in taken
        assert len(line["message"]) == 8


def test_the_level_changes_at_run_time_and_goes_back_with_a_reload(house: Daemons) -> None:
    config = house.deployment.patient_config("charlie")
    assert cohortium("log", "error", "--config", config).stdout.startswith("logs error and worse; before: ")
    assert status(house.deployment, "charlie")["log_level"] == "error"
    tell(house, "charlie", signal.SIGHUP)
    until(lambda: status(house.deployment, "charlie")["log_level"] == "info", "the reload")


# ---- guests who misbehave


def still_works(daemons: Daemons) -> None:
    assert http(daemons.deployment.ports["health"], "/healthz") == (200, "ok\n")
    assert sum_of(open_round(daemons.deployment, "--watch")) == SUM


def files_open(daemons: Daemons, name: str) -> int:
    return len(list(Path(f"/proc/{daemons.children[name].process.pid}/fd").iterdir()))


def resident(daemons: Daemons, name: str) -> int:
    """Bytes."""
    [line] = [
        line for line in Path(f"/proc/{daemons.children[name].process.pid}/status").read_text().splitlines() if "VmRSS" in line
    ]
    return int(line.split()[1]) * 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open 1,000 sockets and more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY and hard < 4096 else 4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_with_1000_connections_keeps_nobody_else_out(start: Start, many_files: None) -> None:
    daemons = start(limits={"handshake_seconds": 2, "handshakes_per_address": 50})
    port = daemons.deployment.ports[HOSPITAL]
    before = files_open(daemons, HOSPITAL)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        refused = until(
            lambda: [one for one in logged(daemons, HOSPITAL, "connection-refused") if one["reason"] == "address"], "it"
        )
        assert refused
        # The guest's 50 handshakes are given up after 2 s; then there is room for one from its address again.
        until(lambda: files_open(daemons, HOSPITAL) <= before, "the connections to be cut")
        still_works(daemons)
    text = http(daemons.deployment.ports["health"], "/metrics")[1]
    assert metric(text, 'cohortium_connections_refused_total{reason="address"}') >= 500


def as_alice(deployment: Deployment) -> ssl.SSLSocket:
    """A connection to the hospital by a node with a good certificate."""
    directory = deployment.directory / "alice"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(deployment.directory / "ca" / "ca.crt")
    context.load_cert_chain(directory / "alice.crt", directory / "alice.key")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # one that reads slowly is noticed soon
    client.settimeout(5)
    client.connect(("127.0.0.1", deployment.ports[HOSPITAL]))
    return context.wrap_socket(client)


HEAD = b"POST /v1/inbox HTTP/1.1\r\nHost: h\r\nContent-Type: application/octet-stream\r\n"


def drip(client: ssl.SSLSocket, octets: bytes, every: float = 0.1, seconds: float = 10) -> bool:
    """Sends one byte after the other until the other end cuts the connection; whether it did."""
    client.settimeout(every)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            client.sendall(octets)
            try:
                if client.recv(4096) == b"":
                    return True
            except TimeoutError:
                continue
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"POST /v1/inbox HTTP/1.1\r\nX: ", "header-timeout"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", "body-timeout"),
    ],
    ids=["headers", "body"],
)
def test_a_client_that_sends_a_byte_now_and_then_is_cut(start: Start, head: bytes, reason: str) -> None:
    daemons = start(limits={"header_seconds": 1, "body_seconds": 1, "bytes_per_second": 1_000_000, "linger_seconds": 0.2})
    with as_alice(daemons.deployment) as client:
        client.sendall(head)
        assert drip(client, b"x"), "it was not cut"
    until(lambda: [one for one in logged(daemons, HOSPITAL, "connection-refused") if one["reason"] == reason], reason)
    still_works(daemons)


def test_a_body_without_end_is_refused_before_it_is_read(start: Start) -> None:
    daemons = start(limits={"linger_seconds": 0.2})
    before = resident(daemons, HOSPITAL)
    with as_alice(daemons.deployment) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert drip(client, b"10000\r\n" + bytes(65536) + b"\r\n", every=0.001), "it was not cut"
    [refused] = until(lambda: logged(daemons, HOSPITAL, "connection-refused"), "the refusal")
    assert refused["reason"] == "length"
    assert resident(daemons, HOSPITAL) - before < 20 << 20
    still_works(daemons)


def test_a_client_that_never_reads_its_answers_costs_no_memory_and_is_cut(start: Start) -> None:
    daemons = start(limits={"idle_seconds": 1, "header_seconds": 1, "linger_seconds": 0.2})
    before = resident(daemons, HOSPITAL)
    with as_alice(daemons.deployment) as client:
        client.settimeout(0.2)
        end = time.monotonic() + 15
        cut = False
        while not cut and time.monotonic() < end:
            try:
                client.sendall(b"GET /v1/inbox HTTP/1.1\r\nHost: h\r\n\r\n" * 1000)
            except TimeoutError:
                continue
            except OSError:
                cut = True
    assert resident(daemons, HOSPITAL) - before < 20 << 20
    assert cut, "it was not cut"
    still_works(daemons)


# ---- a clock an hour off


@pytest.fixture
def start_off(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[Daemons, str, int], None]:
    """Starts a daemon whose clock is so many seconds off."""

    def start_off(daemons: Daemons, name: str, seconds: int) -> None:
        site = tmp_path_factory.mktemp("site")
        (site / "sitecustomize.py").write_text(f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n")
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
            daemons.start(name)

    return start_off


def test_a_patient_an_hour_ahead_declines_and_both_sides_say_why(
    start: Start, start_off: Callable[[Daemons, str, int], None]
) -> None:
    daemons = start(HOSPITAL, "alice", "bob")
    start_off(daemons, "charlie", HOUR)
    daemons.wait_until_ready()
    assert open_round(daemons.deployment, "--watch")["outcome"] == "aborted"
    [decision] = logged(daemons, "charlie", "invitation-decided")
    assert "clock" in decision["reason"]
    done = cohortium("doctor", "--config", daemons.deployment.hospital_config)
    [line] = [line for line in done.stdout.splitlines() if "charlie" in line]
    assert line.startswith("fail")
    assert "behind its clock" in line
    assert done.returncode == 1


def test_a_node_an_hour_behind_its_new_certificate_does_not_start_and_says_why(
    start: Start, start_off: Callable[[Daemons, str, int], None]
) -> None:
    daemons = start(HOSPITAL)
    start_off(daemons, "charlie", -HOUR)
    child = daemons.children.pop("charlie")
    assert child.process.wait(20) == 77
    assert "check the clocks" in child.log.read_text()


def test_nothing_in_these_logs_is_a_value(house: Daemons) -> None:
    assert sum_of(open_round(house.deployment, "--watch")) == SUM
    for name in house.children:
        assert not [line for line in log_of(house, name) if {100, 10_000, SUM} & set(map(_number, line.values()))]


def _number(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
