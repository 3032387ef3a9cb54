"""From a circuit to the parts of a bundle: compiled with our options, tried with real keys, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from fhe.backend import Values
from fhe.bundle import PROBE, Audience, Seconds, Security, Sizes, Span
from fhe.concrete.engine import ConcreteEngine
from fhe.concrete.library import HERE, compile_circuit, native_form
from fhe.concrete.options import CIRCUIT, NATIVE, OPTIONS, PROGRAM, Options
from fhe.errors import UnsupportedModel

SECURITY = Security(bits=128, p_error_log2=-40)
_SLACK = 4096  # bytes that a key may be longer than the one that was measured


@dataclass(frozen=True, slots=True)
class Built:
    """The parts, but for the quantiser, and what was measured."""

    parts: dict[str, tuple[Audience, bytes]]
    sizes: Sizes
    seconds: Seconds


def build(mlir: str, values: Values, expected: Values, options: Options | None = None) -> Built:
    """Compiles the circuit, and tries it: `values`, (samples, *input shape), must give `expected`, (samples, *output shape).

    Raises UnsupportedModel when it does not compile, or gives something else.
    """
    chosen = options or Options(platform=HERE)
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        try:
            library = compile_circuit(mlir, chosen, SECURITY, directory)
        except RuntimeError as error:
            raise UnsupportedModel(
                f"there are no parameters for this circuit with {SECURITY.bits} bits of security and errors below "
                f"2^{SECURITY.p_error_log2}; take fewer bits ({error})"
            ) from error
        program = library.get_program_info().serialize()
        engine = ConcreteEngine(program, expected.shape[1:], lambda: library)
        key = directory / "key"
        started = time.perf_counter()
        secret = engine.keygen(key)
        made = time.perf_counter()
        inputs = engine.encrypt(secret, values)
        encrypted = time.perf_counter()
        expanded = engine.expand(key)
        outputs = [engine.infer(expanded, inputs[0])]  # which expands the key, too
        warm = time.perf_counter()
        outputs += [engine.infer(expanded, payload) for payload in inputs[1:]]
        inferred = time.perf_counter()
        each = (inferred - warm) / (len(inputs) - 1) if len(inputs) > 1 else warm - encrypted
        results = engine.decrypt(secret, outputs)
        decrypted = time.perf_counter()
        if not np.array_equal(results, expected):
            raise UnsupportedModel("the encrypted results are not those of the quantised model; this is a fault of the compiler")
        count = len(values)
        parts = {
            CIRCUIT: (Audience.SERVER, mlir.encode()),
            OPTIONS: (Audience.SERVER, msgspec.json.encode(chosen)),
            NATIVE: (Audience.SERVER, native_form(directory)),
            PROBE: (Audience.SERVER, engine.encrypt(secret, values[:1] * 0)[0]),
            PROGRAM: (Audience.CLIENT, program),
        }
        sizes = Sizes(key=key.stat().st_size + _SLACK, input=_span(inputs), output=_span(outputs))
        seconds = Seconds(
            keygen=_tidy(made - started),
            encrypt=_tidy((encrypted - made) / count),
            infer=_tidy(each),
            decrypt=_tidy((decrypted - inferred) / count),
        )
    return Built(parts, sizes, seconds)


def _span(payloads: list[bytes]) -> Span:
    lengths = list(map(len, payloads))
    return Span(least=min(lengths), most=max(lengths))


def _tidy(seconds: float) -> float:
    return float(f"{seconds:.3g}")
