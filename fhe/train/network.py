"""From an ONNX network to a circuit on integers, by Concrete ML: numbers of a few bits, and a table for every activation.

All numbers of the input share one scale, which is that of the widest declared range: so a network for images, or for features
that were brought to one scale. A Sigmoid or Softmax at the end is left to the client.
"""

from __future__ import annotations

import copy
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from concrete.ml.onnx.onnx_utils import IMPLEMENTED_ONNX_OPS
from concrete.ml.torch.compile import compile_onnx_model
from numpy.typing import NDArray
from onnx import version_converter

from fhe.bundle import QUANTISER, Audience, Description, Input, Metric, Output
from fhe.concrete.build import SECURITY, build
from fhe.concrete.options import PACKAGE
from fhe.errors import InputError, UnsupportedModel
from fhe.files import read_file
from fhe.onnx.arrays import read_samples
from fhe.onnx.job import Conversion, Report
from fhe.onnx.quality import choose_measure, declare, held_out, read_truth
from fhe.quantiser import to_values
from fhe.train.job import Draft
from fhe.train.numbers import quantiser_of

Array = NDArray[Any]

TRIED = 1
"""Samples that are encrypted: of a network with convolutions each takes minutes."""
_OPSET = 14  # what Concrete ML reads
_MAX_FILE = 256 * 1024 * 1024
_ROUNDED = 2
"""Bits that a sum keeps above those of its summands, when it goes into a table; the lower ones are rounded away."""
_LINKS: dict[str, Literal["sigmoid", "softmax"]] = {"Sigmoid": "sigmoid", "Softmax": "softmax"}


def convert(job: Conversion, directory: Path) -> tuple[Draft, Report]:
    """Writes the parts into `directory`. Raises FheError."""
    model, link = _read(read_file(Path(job.model), _MAX_FILE), job.output)
    shape = _shape(model)
    samples = read_samples(Path(job.calibration), shape)
    truth = read_truth(Path(job.truth), len(samples)) if job.truth else None
    held = held_out(len(samples))
    form = Input(shape=shape, features=declare(job, samples))
    module = _compile(model, _with_ends(samples[~held], form), job.bits)
    quantiser = quantiser_of(module.input_quantizers[0], module.output_quantizers[0], "as-is")
    values = np.asarray(to_values(form, quantiser, samples), dtype=np.int64)
    if not np.array_equal(values, module.quantize_input(samples)):
        raise UnsupportedModel("clients would quantise otherwise than this network was compiled; it does not take one input")
    results = np.asarray(module.quantized_forward(values[held], fhe="disable"), dtype=np.int64)
    built = build(module.fhe_circuit.mlir, values[held][:TRIED], results[:TRIED])
    clear, simulated = _run(model, samples[held]), quantiser.decode(results)
    measure, figure, expected = choose_measure(clear, None if truth is None else truth[held], link)
    report = Report(
        samples=int(held.sum()),
        tried=TRIED,
        measure=measure,
        clear=figure(clear, expected, link),
        simulated=figure(simulated, expected, link),
        encrypted=figure(simulated[:TRIED], expected[:TRIED], link),  # which `build` has found to be the same
    )
    description = Description(
        id=job.id,
        title=job.title,
        kind="onnx-network",
        backend="concrete",
        created=job.created,
        input=form,
        output=Output(shape=results.shape[1:], labels=job.labels, link=link),
        security=SECURITY,
        sizes=built.sizes,
        seconds=built.seconds,
        versions={package: metadata.version(package) for package in (PACKAGE, "concrete-ml", "onnx")},
        linear=all(node.op_type in {"Gemm", "MatMul", "Add", "Flatten", "Reshape"} for node in model.graph.node),
        metrics=(Metric(name=measure, clear=report.clear, quantised=report.simulated, samples=report.samples),),
    )
    parts = built.parts | {QUANTISER: (Audience.CLIENT, msgspec.json.encode(quantiser))}
    for name, (_, data) in parts.items():
        (directory / name).write_bytes(data)
    return Draft(model=description, audience={name: audience for name, (audience, _) in parts.items()}), report


def _read(data: bytes, end: str) -> tuple[Any, Literal["identity", "sigmoid", "softmax"]]:
    """The network up to the tensor `end`, without a link at its end, and the link. Raises InputError, UnsupportedModel."""
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        model = version_converter.convert_version(model, _OPSET)
    except Exception as error:  # onnx raises what its parser and checker raise, of many kinds
        raise InputError(f"this is no ONNX model that can be read: {error}") from error
    target = end or model.graph.output[0].name
    link: Literal["identity", "sigmoid", "softmax"] = "identity"
    makers = {node.output[0]: node for node in model.graph.node}
    if target not in makers:
        raise InputError(f"the network has no tensor {target!r} to end at")
    if (maker := makers[target]).op_type in _LINKS:
        target, link = maker.input[0], _LINKS[maker.op_type]
    cut = _up_to(model, target, makers)
    for node in cut.graph.node:
        if node.op_type not in IMPLEMENTED_ONNX_OPS:
            raise UnsupportedModel(
                f"node {node.name or node.output[0]!r} ({node.op_type}): Concrete ML has no such operator; "
                f"it has {', '.join(sorted(IMPLEMENTED_ONNX_OPS))}"
            )
    return cut, link


def _up_to(model: Any, target: str, makers: dict[str, Any]) -> Any:
    """The same network with `target` for its output, and only the nodes that it needs. Raises UnsupportedModel."""
    needed, wanted = set[str](), [target]
    while wanted:
        name = wanted.pop()
        if name in makers and name not in needed:
            needed.add(name)
            wanted += makers[name].input
    cut = onnx.shape_inference.infer_shapes(copy.deepcopy(model))
    made = next((one for one in (*cut.graph.value_info, *cut.graph.output) if one.name == target), None)
    if made is None:
        raise UnsupportedModel(f"the shape of {target!r} cannot be told; export the network with fixed shapes")
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(node for node in model.graph.node if node.output[0] in needed)
    cut.graph.output.append(made)
    return cut


def _shape(model: Any) -> tuple[int, ...]:
    """Of one sample. Raises UnsupportedModel."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    if len(inputs) != 1:
        raise UnsupportedModel(f"the network has {len(inputs)} inputs, and one is encrypted here")
    _, *axes = (axis.dim_value for axis in inputs[0].type.tensor_type.shape.dim)
    if not axes or min(axes) < 1:
        raise UnsupportedModel("the network's input has no fixed shape; export it with one, the samples' axis first")
    return tuple(axes)


def _with_ends(samples: Array, form: Input) -> Array:
    """Samples, and one that is usual but for the two ends of the declared ranges: what Concrete ML takes its scale from."""
    shown = np.concatenate([samples, samples[:1]]).reshape(len(samples) + 1, -1)
    shown[-1, 0] = min(feature.low for feature in form.features)
    shown[-1, -1] = max(feature.high for feature in form.features)
    return shown.reshape(-1, *form.shape)


def _compile(model: Any, samples: Array, bits: int) -> Any:
    """Raises UnsupportedModel."""
    rounding = {"n_bits": bits + _ROUNDED, "method": "exact"}
    try:
        return compile_onnx_model(model, samples.astype(np.float32), n_bits=bits, rounding_threshold_bits=rounding)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UnsupportedModel(f"Concrete ML does not compile this network: {error}") from error


def _run(model: Any, samples: Array) -> Array:
    """Scores in clear, (samples, results), by onnxruntime."""
    from onnxruntime import InferenceSession

    session = InferenceSession(model.SerializeToString())
    (name,) = (one.name for one in session.get_inputs())
    rows = [session.run(None, {name: sample[np.newaxis].astype(np.float32)})[0] for sample in samples]
    return np.asarray(np.concatenate(rows), dtype=np.float64)
