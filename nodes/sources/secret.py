"""A password or token that a source needs: it stands anywhere but in the configuration itself, and is never printed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mpc.errors import IdentityError
from nodes.fields import Text
from nodes.sources.base import refuse
from nodes.store.sealing import credentials_directory
from nodes.yaml_struct import Problem
from pki.files import read_secret


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it is; read whenever it is needed, so that it may change."""

    file: Path | None = None
    """Of mode 0600, of the daemon's user or root."""
    environment: Text | None = None
    """The name of an environment variable."""
    credential: Text | None = None
    """The name of a file in $CREDENTIALS_DIRECTORY (LoadCredential= of a systemd unit)."""

    def problems(self) -> Iterator[Problem]:
        """One place."""
        given = [field for field in self.__struct_fields__ if getattr(self, field) is not None]
        if len(given) != 1:
            yield Problem((), f"{' and '.join(given) or 'nothing'} is given; give exactly one of file, environment, credential")
        if self.credential is not None and "/" in self.credential:
            yield Problem(("credential",), "is a path; write the name that LoadCredential= gives it, or use 'file'")

    def read(self, variable: str, what: str) -> str:
        """The secret, without blanks and line ends around it. Raises DataError that does not repeat it."""
        if self.environment is not None:
            secret, where = os.environ.get(self.environment, ""), f"environment variable {self.environment}"
        else:
            path = self.file
            if self.credential is not None:
                directory = credentials_directory(os.environ)
                if directory is None:
                    refuse(variable, what, "there is no $CREDENTIALS_DIRECTORY; run this as a systemd service, or name a file")
                path = directory / self.credential
            assert path is not None, "`problems` asks for one"
            try:
                secret, where = read_secret(path).decode("ascii").strip(), str(path)
            except IdentityError as error:
                refuse(variable, what, str(error))
            except UnicodeDecodeError:
                refuse(variable, what, f"{path} holds more than ASCII; write the secret alone into it")
        if not secret or any(not " " < letter <= "~" for letter in secret):
            refuse(variable, what, f"{where} holds none: letters, digits and signs of one line; correct it")
        return secret
