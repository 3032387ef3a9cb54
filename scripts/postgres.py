"""A throw-away PostgreSQL server: in a temporary directory, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotInstalled(Exception):
    """The message says what is missing."""


class Cluster:
    """A running server."""

    def __init__(self, programs: Path, directory: Path, user: str | None) -> None:
        self.directory = directory
        """Of the server's socket."""
        self._programs = programs
        self._user = user

    def url(self, database: str = "postgres", directory: Path | None = None) -> str:
        """By way of this server's socket, or one in another directory."""
        return f"postgresql:///{database}?host={directory or self.directory}&user=postgres"

    def start(self) -> None:
        # No fsync: the server is killed here, the machine is not. No network.
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off -c max_connections=20"
        self._run("pg_ctl", "-w", "-s", "-D", "data", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-s", "-D", "data", "-m", "immediate", "stop")

    def create(self) -> None:
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What the server's own client prints."""
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database))

    def disconnect(self, database: str) -> None:
        """Ends every connection to a database, from the server's side."""
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            database,
        )

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.directory,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,  # the server would hold a pipe open
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=True,
        )
        return (done.stdout or "").strip()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Starts a server. Raises NotInstalled when the machine has none."""
    programs = _programs()
    user = None
    with tempfile.TemporaryDirectory(prefix="cohortium-pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:  # the server refuses to be root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                raise NotInstalled("no user 'postgres' to run the server as") from None
            os.chown(directory, owner.pw_uid, owner.pw_gid)
            user = "postgres"
        cluster = Cluster(programs, directory, user)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def _programs() -> Path:
    """Where initdb is: on the path, or where Debian keeps it."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise NotInstalled("PostgreSQL's server is not installed")
    return versions[-1].parent
