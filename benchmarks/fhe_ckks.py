"""The ckks backend: seconds, sizes and how far results are from the clear network's, with TenSEAL's own calls beside it.

    fhe_ckks.py [--images N] [--json]

    cancer-logistic, digits-relu, digits-square    the project's own networks (networks.py)
    mnist, cryptonets, cryptonets-4                HE-MAN's, where its demonstration is in ../shared/data/he-man; the last with
                                                   polynomials of degree 4
    tenseal-mnist                                  mnist by TenSEAL's calls for vectors, as HE-MAN makes them: conv2d_im2col, mm

All in one process and on one core. `clear` is the network in doubles, `same` the share of samples that get its class. Seconds are
medians of the samples'; `cpu` is the processor's time for one inference, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import Network, cancer_logistic, digits_relu, digits_square
from fhe.ckks.build import build
from fhe.ckks.compile import compile_chain
from fhe.ckks.engine import LAYOUT, CkksEngine, read_layout
from fhe.onnx.arrays import read_samples
from fhe.onnx.chain import Chain, make_chain
from fhe.onnx.graph import read_graph

HE_MAN = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "he-man"

Array = NDArray[np.float64]

_SLOW = 10
"""Images are enough where each takes seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one network."""

    name: str
    samples: int
    same: float
    simulated_same: float
    error: float
    """The largest difference of a result from the clear network's."""
    keygen: float
    encrypt: float
    infer: float
    cpu: float
    decrypt: float
    key_mb: float
    input_mb: float
    output_mb: float
    parameters: str


def _classes(scores: Array) -> NDArray[Any]:
    return scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0] > 0


def measure(name: str, chain: Chain, calibration: Array, samples: Array, degree: int) -> Row:
    """Calibrates on one part of the data, encrypts the other."""
    every = np.concatenate([calibration, samples]).reshape(len(calibration) + len(samples), -1)
    low, high = every.min(axis=0), every.max(axis=0) + 1e-9
    if len(chain.graph.shape) > 1:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    centre, radius = (low + high) / 2, (high - low) / 2
    units = (every - centre) / radius
    compiled = compile_chain(chain, units[: len(calibration)], centre, radius, degree)
    values = units[len(calibration) :]
    built = build(compiled, units[: len(calibration)], chain.output_shape)
    engine = CkksEngine(read_layout(built.parts[LAYOUT][1]), compiled.plan, chain.output_shape)
    clear = chain(samples)
    with TemporaryDirectory() as scratch:
        key = Path(scratch) / "key"
        secret, keygen = _timed(engine.keygen, key)
        size = key.stat().st_size
        expanded = engine.expand(key)
    inputs, outputs, results, seconds, cpu = [], [], [], [], []
    encrypting, decrypting = [], []
    engine.infer(expanded, engine.encrypt(secret, values[:1])[0])  # encodes the weights
    for value in values:
        (payload,), took = _timed(engine.encrypt, secret, value[None])
        encrypting.append(took)
        before = time.process_time()
        result, took = _timed(engine.infer, expanded, payload)
        seconds.append(took)
        cpu.append(time.process_time() - before)
        opened, took = _timed(engine.decrypt, secret, [result])
        decrypting.append(took)
        inputs.append(len(payload))
        outputs.append(len(result))
        results.append(np.asarray(opened).reshape(-1))
    found = np.array(results)
    parameters = compiled.layout.parameters
    return Row(
        name=name,
        samples=len(values),
        same=float((_classes(found) == _classes(clear)).mean()),
        simulated_same=float((_classes(compiled.simulate(values)) == _classes(clear)).mean()),
        error=float(np.abs(found - clear).max()),
        keygen=keygen,
        encrypt=statistics.median(encrypting),
        infer=statistics.median(seconds),
        cpu=statistics.median(cpu),
        decrypt=statistics.median(decrypting),
        key_mb=size / 1e6,
        input_mb=max(inputs) / 1e6,
        output_mb=max(outputs) / 1e6,
        parameters=f"{parameters.degree}, {parameters.levels} levels",
    )


def own(name: str, network: Network, count: int) -> Row:
    """One of the project's networks: half of what it was not trained with calibrates, and of the rest `count` are encrypted."""
    chain = make_chain(read_graph(network.data))
    half = len(network.samples) // 2
    return measure(name, chain, network.samples[:half], network.samples[half : half + count], 2)


def he_man(count: int) -> Iterator[Row]:
    """HE-MAN's networks, on its test images and, if these are too few, on images that then do not calibrate."""
    tests = [read_samples(path, (1, 28, 28)) for path in sorted((HE_MAN / "test-data").glob("*.npy"))]
    others = read_samples(HE_MAN / "calibration-data.zip", (1, 28, 28))
    spare = max(0, count - len(tests))
    images, calibration = np.concatenate([*tests, others[:spare]])[:count], others[spare:]
    chain = make_chain(read_graph((HE_MAN / "mnist.onnx").read_bytes()))
    yield measure("mnist", chain, calibration, images, 2)
    yield plain_tenseal(chain, images[:_SLOW])
    wide = ((0, 0), (0, 0), (2, 2), (2, 2))
    chain = make_chain(read_graph((HE_MAN / "cryptonets.onnx").read_bytes()))
    for degree, name in ((2, "cryptonets"), (4, "cryptonets-4")):
        yield measure(name, chain, np.pad(calibration, wide), np.pad(images, wide), degree)


def plain_tenseal(chain: Chain, images: Array) -> Row:
    """mnist by TenSEAL's vectors, with its defaults: keys for all turns, and mm followed by an addition."""
    import tenseal

    constants = chain.graph.constants
    kernels, bias = constants["conv1.weight"][:, 0], constants["conv1.bias"]
    bits = [31, 26, 26, 26, 26, 26, 26, 31]
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=bits)
    context.global_scale = 2**26
    _, keygen = _timed(context.generate_galois_keys)
    clear, found, seconds, cpu, encrypting = chain(images), [], [], [], []
    for image in images:
        (vector, windows), took = _timed(tenseal.im2col_encoding, context, image[0].tolist(), 7, 7, 3)
        encrypting.append(took)
        before, started = time.process_time(), time.perf_counter()
        channels = [
            vector.conv2d_im2col(kernel.tolist(), windows) + float(add) for kernel, add in zip(kernels, bias, strict=True)
        ]
        hidden = tenseal.CKKSVector.pack_vectors(channels)
        for layer in ("fc1", "fc2"):
            hidden.square_()
            hidden = hidden.mm(constants[f"{layer}.weight"].T.tolist()) + constants[f"{layer}.bias"].tolist()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - before)
        found.append(hidden.decrypt())
    results = np.array(found)
    return Row(
        name="tenseal-mnist",
        samples=len(images),
        same=float((_classes(results) == _classes(clear)).mean()),
        simulated_same=1.0,
        error=float(np.abs(results - clear).max()),
        keygen=keygen,
        encrypt=statistics.median(encrypting),
        infer=statistics.median(seconds),
        cpu=statistics.median(cpu),
        decrypt=0.0,
        key_mb=len(context.serialize(save_secret_key=False)) / 1e6,
        input_mb=len(vector.serialize()) / 1e6,
        output_mb=len(hidden.serialize()) / 1e6,
        parameters="8192, 6 levels",
    )


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="samples of each network")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        own("cancer-logistic", cancer_logistic(), options.images),
        own("digits-relu", digits_relu(), options.images),
        own("digits-square", digits_square(), options.images),
    ]
    if HE_MAN.exists():
        rows += he_man(options.images)
    else:
        print(f"HE-MAN's networks are not in {HE_MAN}: left out", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    names = list(asdict(rows[0]))
    print(" | ".join(names))
    for row in rows:
        print(" | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in asdict(row).values()))


if __name__ == "__main__":
    main()
