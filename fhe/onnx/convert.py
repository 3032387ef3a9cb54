"""One conversion, in the worker's environment: read, calibrate, compile, try it encrypted, leave the parts of a bundle."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhe.bundle import QUANTISER, Audience, Description, Input, Metric, Output
from fhe.ckks.build import SECURITY, Built, build, versions
from fhe.ckks.compile import Compiled, compile_chain
from fhe.files import read_file
from fhe.onnx.arrays import read_samples
from fhe.onnx.chain import Chain, make_chain
from fhe.onnx.graph import MAX_FILE, read_graph
from fhe.onnx.job import Conversion, Report
from fhe.onnx.quality import choose_measure, declare, held_out, read_truth
from fhe.quantiser import Real, to_values
from fhe.train.job import Draft

Array = NDArray[np.float64]


def convert(job: Conversion, directory: Path) -> tuple[Draft, Report]:
    """Writes the parts into `directory`. Raises FheError."""
    chain = make_chain(read_graph(read_file(Path(job.model), MAX_FILE), job.output or None))
    samples = read_samples(Path(job.calibration), chain.graph.shape)
    truth = read_truth(Path(job.truth), len(samples)) if job.truth else None
    form = Input(shape=chain.graph.shape, features=declare(job, samples))
    quantiser = Real(domain="unit")
    values = np.asarray(to_values(form, quantiser, samples), dtype=np.float64).reshape(len(samples), -1)
    held = held_out(len(samples))
    low, high = (np.array([getattr(feature, end) for feature in form.features]) for end in ("low", "high"))
    compiled = compile_chain(chain, values[~held], (low + high) / 2, (high - low) / 2, job.degree)
    built = build(compiled, values[held], chain.output_shape)
    report = _report(chain, compiled, built, samples[held], values[held], truth[held] if truth is not None else None)
    description = Description(
        id=job.id,
        title=job.title,
        kind="onnx-linear" if len(chain.segments) == 1 else "onnx-network",
        backend="ckks",
        created=job.created,
        input=form,
        output=Output(shape=chain.output_shape, labels=job.labels, link=chain.link),
        security=SECURITY,
        sizes=built.sizes,
        seconds=built.seconds,
        versions=versions() | {"onnx": importlib.metadata.version("onnx")},
        linear=len(chain.segments) == 1,
        metrics=(Metric(name=report.measure, clear=report.clear, quantised=report.simulated, samples=report.samples),),
    )
    parts = built.parts | {QUANTISER: (Audience.CLIENT, msgspec.json.encode(quantiser))}
    for name, (_, data) in parts.items():
        (directory / name).write_bytes(data)
    return Draft(model=description, audience={name: audience for name, (audience, _) in parts.items()}), report


def _report(chain: Chain, compiled: Compiled, built: Built, samples: Array, values: Array, truth: NDArray[Any] | None) -> Report:
    clear, simulated = chain(samples), compiled.simulate(values)
    tried = len(built.results)
    measure, figure, expected = choose_measure(clear, truth, chain.link)
    parameters = compiled.layout.parameters
    return Report(
        samples=len(samples),
        tried=tried,
        measure=measure,
        clear=figure(clear, expected, chain.link),
        simulated=figure(simulated, expected, chain.link),
        encrypted=figure(built.results, expected[:tried], chain.link),
        noise=float(f"{built.noise:.2g}"),
        step=built.step,
        degree=parameters.degree,
        bits=parameters.bits,
        levels=parameters.levels,
    )
