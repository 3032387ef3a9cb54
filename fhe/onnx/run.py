"""Carry out the conversion in a directory. Its libraries are loaded here: one that is missing is told like any other fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from fhe.errors import FheError
from fhe.onnx.job import REPORT, Conversion
from fhe.train.job import DESCRIPTION, JOB


def main() -> NoReturn:
    """Do the job in the directory that is the last argument. Status 78 for what a person can mend, told on standard error."""
    directory = Path(sys.argv[-1])
    try:
        job = msgspec.json.decode((directory / JOB).read_bytes(), type=Conversion)
        if job.backend == "ckks":
            from fhe.onnx.convert import convert
        else:
            from fhe.train.network import convert
        draft, report = convert(job, directory)
    except FheError as error:
        print(error, file=sys.stderr)
        sys.exit(78)
    (directory / REPORT).write_bytes(msgspec.json.encode(report))
    (directory / DESCRIPTION).write_bytes(msgspec.json.encode(draft))
    sys.exit(0)
