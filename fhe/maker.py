"""Jobs that make a bundle, in an environment of their own: started, waited for, and told in the words that they leave.

The job and what comes of it are files in a scratch directory (`fhe.train.job`). The maker has no key of its owner's: it leaves
a draft, which is signed here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from fhe.bundle import Audience, Description
from fhe.environment import Environment
from fhe.errors import InputError, WorkerFailed
from fhe.train.job import JOB, read_draft

_MENDABLE = 78
"""Exit status of a job that a person can mend."""


def run_maker(
    environment: Environment, module: str, job: msgspec.Struct, directory: Path
) -> tuple[Description, dict[str, tuple[Audience, bytes]]]:
    """Carries out `job` by `module.main()` in `environment`, in the empty `directory`. Blocks for as long as it takes.

    Raises InputError in the job's own words, WorkerFailed when it ended without any.
    """
    (directory / JOB).write_bytes(msgspec.json.encode(job))
    done = subprocess.run(  # noqa: S603  # our own module, in the Python that the caller named
        [*environment.command(module), str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment.variables(),
        check=False,
    )
    if done.returncode == _MENDABLE:
        raise InputError(
            done.stderr.decode(errors="replace").strip().splitlines()[-1]
        )  # libraries may have said something before
    if done.returncode:
        raise WorkerFailed(f"the work ended with status {done.returncode}: {done.stderr.decode(errors='replace')[-500:].strip()}")
    draft, parts = read_draft(directory)
    return draft.model, parts
