"""A committed bundle with something changed, signed by the tests' own key: what a careless or dishonest owner might offer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from fhe.bundle import Bundle, Trust, make_bundle
from tests.fhe.house import SIGN


def rebuilt(
    bundle: Bundle,
    directory: Path,
    trust: Trust,
    *,
    circuit: bytes | None = None,
    options: Callable[[bytes], bytes] = bytes,
    versions: dict[str, str] | None = None,
) -> Bundle:
    parts = {name: (part.audience, bundle.part(name)) for name, part in bundle.manifest.parts.items()}
    if circuit is not None:
        parts["circuit.mlir"] = (parts["circuit.mlir"][0], circuit)
    parts["options.json"] = (parts["options.json"][0], options(parts["options.json"][1]))
    model = bundle.model if versions is None else msgspec.structs.replace(bundle.model, versions=versions)
    path = directory / "rebuilt.bundle"
    path.write_bytes(make_bundle(model, parts, SIGN))
    return Bundle.open(path, trust)
