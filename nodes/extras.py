"""Libraries that only some nodes need: extras of the package, imported when they are used and not before."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from mpc.errors import ConfigError


def library(name: str, extra: str) -> ModuleType:
    """A module of a library of that extra. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(_missing(name, extra)) from error


def check_libraries(names: tuple[str, ...], extra: str, what: str) -> None:
    """Raises ConfigError when one of the libraries is not installed; none is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{what}: {_missing(name, extra)}")


def _missing(name: str, extra: str) -> str:
    return f"this needs {name.partition('.')[0]}, which is not installed: pip install 'cohortium[{extra}]'"
