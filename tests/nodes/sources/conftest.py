"""What tests of sources read from: a PostgreSQL server and a FHIR server, each a process of its own."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.ports import free_ports
from scripts.postgres import Cluster, NotInstalled, running_cluster
from tests.services import until

ROOT = Path(__file__).resolve().parents[3]
_names = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, or a reason why there is none."""
    try:
        with running_cluster() as running:
            yield running
    except NotInstalled as missing:
        pytest.skip(str(missing))


def new_database(cluster: Cluster, *statements: str) -> str:
    """The URL of a database after these."""
    name = f"source_{next(_names)}"
    cluster.sql(f"CREATE DATABASE {name}")
    for statement in statements:
        cluster.sql(statement, name)
    return cluster.url(name)


class Fhir:
    """A running FHIR server."""

    def __init__(self, port: int, directory: Path, certificate: Path | None = None) -> None:
        self.port, self.directory, self.certificate = port, directory, certificate

    def serve(self, *observations: dict[str, Any], **how: Any) -> str:
        """The base URL below which it has these."""
        name = f"s{next(_names)}"
        (self.directory / f"{name}.json").write_text(json.dumps({"observations": observations, **how}))
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}/{name}"

    def asked(self, url: str) -> list[dict[str, Any]]:
        """What it was asked there."""
        log = self.directory / f"{url.rpartition('/')[2]}.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="session")
def fhir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fhir]:
    with _fhir(tmp_path_factory.mktemp("fhir")) as running:
        yield running


@pytest.fixture(scope="session")
def secure_fhir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fhir]:
    """One with TLS, whose certificate it has signed itself."""
    directory = tmp_path_factory.mktemp("secure")
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem", "-out", "certificate.pem")
    names = ("-subj", "/CN=fhir", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    subprocess.run(["openssl", "req", "-x509", *made, *names], cwd=directory, check=True, capture_output=True, timeout=60)
    certificate = directory / "certificate.pem"
    (directory / "both.pem").write_text((directory / "key.pem").read_text() + certificate.read_text())
    with _fhir(directory, certificate, directory / "both.pem") as running:
        yield running


@contextmanager
def _fhir(directory: Path, certificate: Path | None = None, *pem: Path) -> Iterator[Fhir]:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "tests.nodes.sources.fhir_server", str(port), *map(str, (directory, *pem))]
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            until(lambda: _listens(port), "the FHIR server")
            yield Fhir(port, directory, certificate)
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of that name."""

    def of(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return of
