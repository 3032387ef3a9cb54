"""How a circuit is compiled, as our own JSON. Concrete's own form is read through jsonpickle, which can build any object."""

from __future__ import annotations

from typing import Literal

import msgspec

from fhe.bundle import Bundle, Struct
from fhe.errors import BundleError

OPTIONS = "options.json"
CIRCUIT = "circuit.mlir"
"""The portable form: any machine with a linker compiles it, given the same version of the library."""
PROGRAM = "program.json"
"""What the client needs: parameters of keys and ciphertexts. No weights."""
NATIVE = "native.so"
"""The circuit compiled, for machines without a linker."""

PACKAGE = "concrete-python"
"""The one package whose version must be exactly that of the bundle: parameters and encodings are its own."""


class Options(Struct, frozen=True, kw_only=True):
    """What `options.json` says."""

    platform: str
    """Of `native.so`: "Linux-x86_64"."""
    strategy: Literal["mono", "multi"] = "multi"
    """One set of parameters for all look-ups, or several."""
    loop_parallelize: bool = True
    compress_keys: bool = True
    """Half the size on the way, expanded by the worker."""
    compress_inputs: bool = True


def read_options(bundle: Bundle) -> Options:
    """The bundle's. Raises BundleError."""
    try:
        return msgspec.json.decode(bundle.part(OPTIONS), type=Options)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"{OPTIONS} does not say what it must: {error}") from error
