"""The audit logs of real daemons: shown, verified, exported, erased; and what is done to the file of one is named."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.harness import Cohort, cohortium, total, wait_for


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    """Daemons that have had one round."""
    sources = {name: {"literal": 5} for name in ("alice", "bob", "charlie")}
    with Cohort(tmp_path_factory.mktemp("audit"), sources) as made:
        made.start(HOSPITAL, "alice", "bob", "charlie")
        assert total(made.run(STUDY)) == 15
        yield made


def shown(cohort: Cohort, name: str, *options: str) -> list[dict[str, Any]]:
    done = cohortium("audit", "show", "--json", "--config", cohort.config(name), *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def events(cohort: Cohort, name: str, *options: str) -> list[str]:
    return [line.get("event", "erased") for line in shown(cohort, name, *options)]


def test_a_round_is_in_the_logs_of_all_who_took_part(cohort: Cohort) -> None:
    wait_for(lambda: "ended" in events(cohort, "alice"), "alice has heard of the end")
    consented, submitted, _, _ = lines = shown(cohort, "alice")
    assert [line["event"] for line in lines] == ["consented", "submitted", "receipted", "ended"]
    assert consented["content"]["hospital"] == f"spiffe://demo/hospital/{HOSPITAL}"
    assert {line["study"] for line in lines} == {STUDY}
    released, _, _ = shown(cohort, HOSPITAL)
    assert (released["event"], released["content"]["members"]) == ("released", 3)
    assert released["content"]["context"] == submitted["content"]["context"]
    assert {line["content"]["round"] for line in (*lines, released)} == {released["content"]["round"]}
    assert events(cohort, "alice", "--event", "submitted") == ["submitted"]
    assert events(cohort, "alice", "--since", "2100-01-01") == []
    text = cohortium("audit", "show", "--config", cohort.config("alice")).stdout
    assert [line.split()[:1] + line.split()[3:5] for line in text.splitlines()] == [
        ["1", "consented", STUDY],
        ["2", "submitted", STUDY],
        ["3", "receipted", STUDY],
        ["4", "ended", STUDY],
    ]


def test_strangers_and_reloads_are_on_record(cohort: Cohort) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", cohort.port(HOSPITAL))) as raw,
        context.wrap_socket(raw) as secured,
        pytest.raises(ssl.SSLError),
    ):
        secured.recv(1)
    refusals = wait_for(lambda: shown(cohort, HOSPITAL, "--event", "refused"), "the refusal is kept")
    assert refusals[0]["content"] == {"what": "connection", "reason": "no-certificate", "left_out": 0}
    cohort.signal(HOSPITAL, signal.SIGHUP)
    wait_for(lambda: shown(cohort, HOSPITAL, "--event", "reloaded"), "the reload is kept")


def test_an_export_is_verified_with_the_nodes_certificate_alone(cohort: Cohort, tmp_path: Path) -> None:
    file, certificate = tmp_path / "alice.jsonl", tmp_path / "certificate.crt"
    done = cohortium("audit", "export", file, "--config", cohort.config("alice"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    certificate.write_bytes((cohort.directory / "alice" / "alice.crt").read_bytes())
    done = cohortium("audit", "verify", file, "--certificate", certificate)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("spiffe://demo/patient/alice, exported ")
    assert done.stdout.endswith(": lines 1 to 4 are as they were written\n")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], *lines[3:]]))
    done = cohortium("audit", "verify", file, "--certificate", certificate)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "cohortium: line 2: it is missing\n")


def test_what_is_done_to_the_file_of_a_node_is_named_and_not_signed(cohort: Cohort, tmp_path: Path) -> None:
    config = cohort.config("bob")
    wait_for(lambda: "ended" in events(cohort, "bob"), "bob has heard of the end")
    done = cohortium("audit", "verify", "--config", config)
    assert (done.returncode, done.stdout) == (0, "lines 1 to 4 are as they were written\n"), done.stderr
    assert cohort.stop("bob") == 0
    with sqlite3.connect(cohort.directory / "bob" / "state" / "store.db") as connection:
        connection.execute("UPDATE audit SET study = 'weight' WHERE number = 1")
    connection.close()
    cohort.start("bob")
    done = cohortium("audit", "verify", "--config", config)
    why = "cohortium: line 1: it was changed, or is not the one that was written here\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", why)
    done = cohortium("audit", "export", tmp_path / "bob.jsonl", "--config", config)
    assert (done.returncode, done.stderr) == (1, why)
    assert list(tmp_path.iterdir()) == []


def test_what_was_erased_is_said_and_the_rest_verifies(cohort: Cohort) -> None:
    config = cohort.config("charlie")
    wait_for(lambda: "ended" in events(cohort, "charlie"), "charlie has heard of the end")
    assert cohortium("erase", "--older-than", "0", "--yes", "--config", config).returncode == 0
    done = cohortium("audit", "verify", "--config", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "lines 5 to 5 are as they were written; lines 1 to 4 were erased, and a line says so\n"
    (said,) = shown(cohort, "charlie")
    assert (said["event"], said["content"]["lines"], said["content"]["rounds"]) == ("erased", 4, 1)
