"""`cohortium doctor`: each thing that can be wrong with a node is one line that names it and the way out."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc.identity import Identity, Role
from nodes.config import HospitalConfig, PatientConfig, RelayConfig, check_patient
from nodes.doctor import Check, Verdict, look_over, peers_of, read_any
from scripts.daemons import Daemons
from scripts.deployment import CONSORTIUM, HOSPITAL, Deployment
from tests.services import add, cohortium, free_port, write_deployment


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return write_deployment(tmp_path_factory.mktemp("d"))


@pytest.fixture
def deployment(made: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Files and ports of its own for a test to spoil; no daemon runs."""
    directory = tmp_path_factory.mktemp("c")
    shutil.copytree(made.directory, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "state", "*.log"))
    copy = Deployment(directory, made.sources, made.question, {name: free_port() for name in made.ports})
    for config in (copy.hospital_config, *map(copy.patient_config, copy.names)):
        for name, port in made.ports.items():
            config.write_text(config.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{copy.ports[name]}"))
    return copy


@pytest.fixture(scope="module")
def running(made: Deployment) -> Iterator[Deployment]:
    with Daemons(made) as daemons:
        daemons.wait_until_ready()
        yield made


def expect_at(deployment: Deployment, name: str, port: int) -> None:
    """The hospital looks for a patient there."""
    text = deployment.hospital_config.read_text()
    deployment.hospital_config.write_text(text.replace(f"127.0.0.1:{deployment.ports[name]}", f"127.0.0.1:{port}"))


def examined(path: Path) -> dict[str, Check]:
    async def all_of_them() -> list[Check]:
        return [check async for check in look_over(path)]

    return {check.name: check for check in asyncio.run(all_of_them())}


def test_a_node_in_order_gets_no_fail_and_exits_with_0(running: Deployment) -> None:
    for config in (running.hospital_config, running.patient_config("alice")):
        done = cohortium("doctor", "--config", config)
        assert (done.returncode, [line for line in done.stdout.splitlines() if line.startswith("fail")]) == (0, [])
    assert "met spiffe://demo/hospital/hospital" in done.stdout


def test_json_has_an_object_a_line_with_the_same_checks(running: Deployment) -> None:
    lines = cohortium("doctor", "--json", "--config", running.hospital_config).stdout.splitlines()
    checks = [json.loads(line) for line in lines]
    assert {check["verdict"] for check in checks} <= {"ok", "warn"}
    assert {check["check"] for check in checks} >= {
        "configuration",
        "keys",
        "certificate",
        "clock",
        "store",
        "disk",
        "peer alice",
    }


def test_every_problem_of_the_configuration_is_a_line_and_the_exit_status_is_1(deployment: Deployment) -> None:
    add(deployment.hospital_config, "bogus: 1\nother: 2\n")
    done = cohortium("doctor", "--config", deployment.hospital_config)
    assert [line[:4] for line in done.stdout.splitlines()] == ["fail", "fail"]
    assert done.returncode == 1


def test_a_key_that_others_can_read_fails_with_the_command_that_mends_it(deployment: Deployment) -> None:
    key = deployment.directory / HOSPITAL / "hospital.key"
    key.chmod(0o644)
    check = examined(deployment.hospital_config)["keys"]
    assert check.verdict is Verdict.FAIL
    assert f"chmod 600 {key}" in check.text


def test_a_configuration_that_others_can_write_fails(deployment: Deployment) -> None:
    deployment.hospital_config.chmod(0o666)
    assert examined(deployment.hospital_config)["permissions"].verdict is Verdict.FAIL


def test_values_that_others_can_read_are_warned_of_and_not_shown(deployment: Deployment) -> None:
    config = deployment.patient_config("charlie")
    config.chmod(0o644)
    check = examined(config)["permissions"]
    assert check.verdict is Verdict.WARN
    assert "10000" not in check.text


@pytest.mark.parametrize(("days", "verdict"), [(20, Verdict.OK), (24, Verdict.WARN)])
def test_a_certificate_near_its_end_is_warned_of(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, days: int, verdict: Verdict
) -> None:
    now = time.time()  # certificates are made for 30 days
    monkeypatch.setattr("nodes.doctor.time.time", lambda: now + days * 24 * 3600)
    assert examined(deployment.hospital_config)["certificate"].verdict is verdict


def test_a_certificate_that_has_ended_fails(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("nodes.doctor.time.time", lambda: now + 31 * 24 * 3600)
    check = examined(deployment.hospital_config)["keys"]
    assert check.verdict is Verdict.FAIL
    assert "has expired" in check.text


def test_a_peer_that_is_down_fails_and_the_others_are_met_all_the_same(deployment: Deployment) -> None:
    checks = examined(deployment.hospital_config)
    assert checks["peer alice"].verdict is Verdict.FAIL
    assert "nothing listens there" in checks["peer alice"].text
    assert {"peer bob", "peer charlie"} <= checks.keys()


def test_another_node_at_a_peers_address_is_named(running: Deployment, deployment: Deployment) -> None:
    expect_at(deployment, "alice", running.ports["bob"])
    check = examined(deployment.hospital_config)["peer alice"]
    assert check.verdict is Verdict.FAIL
    assert "met spiffe://demo/patient/bob" in check.text


def test_a_node_that_does_not_trust_ours_is_told(running: Deployment, deployment: Deployment) -> None:
    directory = deployment.directory
    for arguments in (
        ("init", "--consortium", CONSORTIUM, "--dir", directory / "other"),
        (
            "issue",
            f"hospital/{HOSPITAL}",
            "--ip",
            "127.0.0.1",
            "--dir",
            directory / "other",
            "--out",
            directory,
            "--per-node",
            "--force",
        ),
    ):
        assert cohortium("pki", *arguments).returncode == 0
    expect_at(deployment, "alice", running.ports["alice"])
    text = deployment.hospital_config.read_text()
    deployment.hospital_config.write_text(text.replace('["../ca/ca.crt"]', '["../ca/ca.crt", "../other/ca.crt"]'))
    check = examined(deployment.hospital_config)["peer alice"]
    assert check.verdict is Verdict.FAIL
    assert "does not accept this node's certificate" in check.text


SPEAKER = """\
import socket, sys
with socket.socket(fileno=0) as listener:
    client, _ = listener.accept()
    client.sendall(sys.argv[1].encode())
    client.close()
"""


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("220 mail ESMTP", "no TLS 1.3"), ("", "closes the connection")],
    ids=["another program", "closes at once"],
)
def test_what_is_no_node_is_told(deployment: Deployment, behaviour: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", deployment.ports["alice"])) as listener:
        speaker = subprocess.Popen([sys.executable, "-c", SPEAKER, behaviour], stdin=listener.fileno())
        check = examined(deployment.hospital_config)["peer alice"]
        speaker.wait(10)
    assert check.verdict is Verdict.FAIL
    assert words in check.text


def test_a_daemon_that_is_not_running_is_warned_of(deployment: Deployment) -> None:
    assert examined(deployment.hospital_config)["daemon"].verdict is Verdict.WARN


def test_another_program_on_our_port_fails(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.ports[HOSPITAL])):
        check = examined(deployment.hospital_config)["daemon"]
    assert check.verdict is Verdict.FAIL
    assert "Something else listens" in check.text


@pytest.mark.parametrize(
    ("free", "verdict"), [(10 << 30, Verdict.OK), (100 << 20, Verdict.WARN), (1 << 20, Verdict.FAIL)], ids=["ok", "warn", "fail"]
)
def test_a_disk_that_fills_up_is_told_in_time(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, free: int, verdict: Verdict
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("nodes.doctor.shutil.disk_usage", lambda _: usage._replace(free=free))
    assert examined(deployment.hospital_config)["disk"].verdict is verdict


def test_a_clock_that_no_service_sets_is_warned_of(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __init__(self, _name: None) -> None:
            self.adjtimex = lambda _buffer: 5

    monkeypatch.setattr("nodes.doctor.ctypes.CDLL", Kernel)
    check = examined(deployment.hospital_config)["clock"]
    assert check.verdict is Verdict.WARN
    assert "time service" in check.text


@pytest.mark.parametrize(("off", "words"), [(1000, "1000 s ahead of its clock"), (200, "clocks agree"), (-200, "clocks agree")])
def test_clocks_that_are_too_far_apart_fail(running: Deployment, monkeypatch: pytest.MonkeyPatch, off: int, words: str) -> None:
    real = time.time
    monkeypatch.setattr("nodes.doctor.time.time", lambda: real() + off)
    check = examined(running.patient_config("alice"))["peer hospital"]
    # The answer is in whole seconds, so that a second more or less may be seen.
    assert words in check.text.replace(" 1001 s", " 1000 s").replace(" 999 s", " 1000 s")
    assert (check.verdict is Verdict.FAIL) == (abs(off) > 300)


def test_every_role_is_recognised_by_its_configuration(deployment: Deployment) -> None:
    relay = deployment.directory / HOSPITAL / "relay.yaml"
    relay.write_text(
        "consortium: demo\nname: mail\nlisten: '127.0.0.1:1'\nadmin: a.sock\n"
        "identity: {key: a.key, certificate: a.crt, authorities: [../ca/ca.crt]}\n"
    )
    found = [read_any(path) for path in (deployment.hospital_config, deployment.patient_config("bob"), relay)]
    assert [(type(config), config.name) for config in found] == [
        (HospitalConfig, HOSPITAL),
        (PatientConfig, "bob"),
        (RelayConfig, "mail"),
    ]


def test_a_damaged_store_fails(deployment: Deployment) -> None:
    state = deployment.directory / HOSPITAL / "state"
    state.mkdir(mode=0o700)
    (deployment.directory / HOSPITAL / "storage.key").write_bytes(bytes(32))
    (deployment.directory / HOSPITAL / "storage.key").chmod(0o600)
    assert examined(deployment.hospital_config)["store"].verdict is Verdict.OK
    (state / "store.db").write_bytes(b"SQLite format 3\0" + bytes(4096))
    check = examined(deployment.hospital_config)["store"]
    assert check.verdict is Verdict.FAIL
    assert "damaged" in check.text
    assert sorted(path.name for path in state.iterdir()) == ["store.db"], "doctor leaves nothing behind"


def test_a_state_without_its_storage_key_fails(deployment: Deployment) -> None:
    (deployment.directory / HOSPITAL / "state").mkdir(mode=0o700)
    (deployment.directory / HOSPITAL / "storage.key").unlink()
    check = examined(deployment.hospital_config)["store"]
    assert check.verdict is Verdict.FAIL
    assert "storage.key does not exist" in check.text


def test_a_state_that_others_can_read_fails(deployment: Deployment) -> None:
    (deployment.directory / HOSPITAL / "state").mkdir(mode=0o755)
    assert "chmod 700" in examined(deployment.hospital_config)["store"].text


def test_a_database_that_is_away_fails(deployment: Deployment) -> None:
    (deployment.directory / HOSPITAL / "state").mkdir(mode=0o700)
    (deployment.directory / HOSPITAL / "storage.key").write_bytes(bytes(32))
    (deployment.directory / HOSPITAL / "storage.key").chmod(0o600)
    add(deployment.hospital_config, f"store: postgresql://node:secret@127.0.0.1:{free_port()}/db\n")
    check = examined(deployment.hospital_config)["store"]
    assert check.verdict is Verdict.FAIL
    assert "no database listens" in check.text
    assert "secret" not in check.text


def test_a_patients_peers_are_its_hospital_and_those_whose_address_it_knows(deployment: Deployment) -> None:
    config = deployment.patient_config("alice")
    add(config, 'peers: {bob: "https://127.0.0.1:1"}\n')
    assert peers_of(check_patient(config)) == {
        Identity(CONSORTIUM, Role.HOSPITAL, HOSPITAL): f"https://127.0.0.1:{deployment.ports[HOSPITAL]}",
        Identity(CONSORTIUM, Role.PATIENT, "bob"): "https://127.0.0.1:1",
    }
