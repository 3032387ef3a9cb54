"""The models that a service offers: the bundles in a directory, signed by somebody whom it trusts.

A bundle that cannot be read or is not trusted keeps no other from being offered; why it is left out is told. A new file under an
old id is a new model: keys and ciphertexts for the old one are stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fhe.bundle import Bundle, Trust
from fhe.errors import BundleError, FheError, InputError, Refused, Why

SUFFIX = ".bundle"


@dataclass(frozen=True, slots=True)
class Registry:
    """What was found in a directory. Make another to look again."""

    models: dict[str, Bundle]
    """By id."""
    problems: dict[Path, str]
    """Files that are not offered, and why."""

    @classmethod
    def load(cls, directory: Path, trust: Trust) -> Registry:
        """Raises InputError when the directory cannot be read."""
        models: dict[str, Bundle] = {}
        problems: dict[Path, str] = {}
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
        except OSError as error:
            raise InputError(f"cannot look for models in {directory}: {error.strerror}") from error
        for path in paths:
            try:
                bundle = Bundle.open(path, trust)
                if (other := models.get(bundle.model.id)) is not None:
                    raise BundleError(f"its id {bundle.model.id} is taken by {other.source!s}; remove one of them")
            except FheError as error:
                problems[path] = str(error)
            else:
                models[bundle.model.id] = bundle
        return cls(models, problems)

    def get(self, name: str) -> Bundle | None:
        """The model with this id or this hash."""
        return self.models.get(name) or next((one for one in self.models.values() if one.hash == name), None)

    def current(self, name: str, model: str) -> Bundle:
        """The model `name`, if its hash is still `model`. Raises Refused: there is none, or it was replaced."""
        bundle = self.models.get(name)
        if bundle is None:
            raise Refused(Why.NO_KEY, f"there is no model {name!r} here")
        if bundle.hash != model:
            raise Refused(Why.STALE, f"{name} is now {bundle.hash[:12]} and was {model[:12]}; fetch it anew and make new keys")
        return bundle
