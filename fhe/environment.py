"""Where workers run: a Python of their own, with the libraries that encrypt, which the daemons' environment must never have.

`make .venv-fhe` makes it from requirements/fhe.lock. Its Python starts in isolated mode and is given this very package, whatever
is installed beside it, so that both sides of the pipe are of one version.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fhe.errors import Unavailable

VARIABLE = "COHORTIUM_FHE_PYTHON"
TRAIN_VARIABLE = "COHORTIUM_TRAIN_PYTHON"

_HERE = Path(__file__).parent
# -I leaves out the environment's variables, the user's packages and the current directory; so the package is put in by its path.
_BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fhe", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["fhe"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
importlib.import_module(sys.argv[2]).main()
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python and how many threads each of its workers uses."""

    python: Path
    threads: int = 1

    @classmethod
    def find(cls, python: Path | None = None, *, threads: int = 1) -> Environment:
        """That of `python`, or of $COHORTIUM_FHE_PYTHON, or of the checkout's .venv-fhe. Raises Unavailable."""
        return cls(find_python(python, VARIABLE, ".venv-fhe"), threads)

    @classmethod
    def find_training(cls, python: Path | None = None) -> Environment:
        """That of `python`, or of $COHORTIUM_TRAIN_PYTHON, or of the checkout's .venv-train. Raises Unavailable."""
        return cls(find_python(python, TRAIN_VARIABLE, ".venv-train"), os.cpu_count() or 1)

    def command(self, module: str = "fhe.worker") -> list[str]:
        """What starts `module.main()` there."""
        return [str(self.python), "-I", "-c", _BOOT, str(_HERE), module]

    def variables(self) -> dict[str, str]:
        """The environment of a worker: nothing of ours, where a secret may stand, but what finding a linker and a place needs."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG", "HOME") if name in os.environ}
        # Threads that wait for each other by spinning take the processor from those that they wait for.
        return kept | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}


def find_python(given: Path | None, variable: str, name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The Python that is given, or that `variable` names, or that of the checkout's environment `name`. Raises Unavailable."""
    made = _HERE.parent / name / "bin" / "python"
    chosen = given or (Path(environment[variable]) if environment.get(variable) else made)
    if os.access(chosen, os.X_OK):
        return chosen.absolute()
    if chosen != made:
        raise Unavailable(f"{chosen} is no Python that can be started; name that of an environment made with: make {name}")
    raise Unavailable(f"encrypted models need the environment {name}, which is not here; {_how(name)}")


def _how(name: str) -> str:
    machine, system, version = platform.machine(), platform.system(), sys.version_info[:2]
    if (system, machine) in {("Linux", "x86_64"), ("Darwin", "arm64")}:
        older = ", with Python 3.11 or 3.12 (make PYTHON=python3.12 ...)" if version > (3, 12) else ""
        return f"make it with 'make {name}'{older}, or name another's Python"
    return f"its libraries come for Linux on x86_64 and macOS on ARM, and this is {system} on {machine}; the rest works"
