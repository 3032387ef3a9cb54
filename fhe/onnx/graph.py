"""An ONNX file becomes a graph of the few operators that later stages know, in doubles; all else is refused by node and operator.

What other libraries write in several ways is written in one here: scikit-learn's Scaler, LinearRegressor and LinearClassifier
become Sub, Mul and Gemm; Cast and Dropout become Identity; Pow by two becomes a Mul of a value with itself. A node whose inputs
are all constants is computed at once. The `onnx` package is needed to read a file; it is in the worker's environment and not in
a daemon's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhe.errors import InputError, Unavailable, UnsupportedModel

try:
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    raise Unavailable("ONNX files are read in the worker's environment, and this is not it: run 'make .venv-fhe'") from error

MAX_FILE = 64 * 1024 * 1024
_OLDEST = 7
"""The operator set since which Add and Mul broadcast as numpy does."""

AFFINE = {
    "Add": {0, 1},
    "AveragePool": {0},
    "BatchNormalization": {0},
    "Conv": {0},
    "Div": {0},
    "Flatten": {0},
    "Gemm": {0, 2},
    "GlobalAveragePool": {0},
    "Identity": {0},
    "MatMul": {0},
    "Mul": {0, 1},
    "Neg": {0},
    "Pad": {0},
    "Reshape": {0},
    "Squeeze": {0},
    "Sub": {0, 1},
    "Transpose": {0},
    "Unsqueeze": {0},
}
"""Operators that are affine in the inputs at these places, as long as the others are constants."""
ACTIVATIONS = frozenset({"Square", "Relu", "Sigmoid", "Tanh", "Clip", "Softmax"})
"""What may stand between affine maps. Square is ours: Mul of a value with itself, or Pow by two."""
REWRITTEN = frozenset({"Cast", "Constant", "Dropout", "LinearClassifier", "LinearRegressor", "Pow", "Scaler"})
"""Read, and written as something above."""
OPERATORS = tuple(sorted((AFFINE.keys() | ACTIVATIONS | REWRITTEN) - {"Square"}))
"""All that is read."""

_INSTEAD = {
    "GlobalMaxPool": "use GlobalAveragePool",
    "LeakyRelu": "use Relu",
    "MaxPool": "use AveragePool",
    "TreeEnsembleClassifier": "the concrete backend runs trees",
    "TreeEnsembleRegressor": "the concrete backend runs trees",
}

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph. `proto` is its ONNX form, after rewriting."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    proto: Any

    def refuse(self, why: str) -> UnsupportedModel:
        """The error that names this node."""
        return UnsupportedModel(f"node {self.name!r} ({self.operator}): {why}")


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can be computed, from one input to one output. The first axis is that of the samples."""

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[Any]]
    """Reals as float64, and the shapes and axes as int64."""
    input: str
    shape: tuple[int, ...]
    """Of one sample."""
    output: str
    opsets: tuple[tuple[str, int], ...]

    def evaluator(self, nodes: Sequence[Node], source: str, target: str) -> Any:
        """Computes `nodes`, from samples of `source` to samples of `target`, with `run(None, {source: values})`."""
        used = {name for node in nodes for name in node.inputs} & self.constants.keys()
        tensors = [numpy_helper.from_array(self.constants[name], name) for name in sorted(used)]
        value = onnx.helper.make_tensor_value_info
        double = onnx.TensorProto.DOUBLE
        protos = [node.proto for node in nodes]
        graph = onnx.helper.make_graph(protos, "part", [value(source, double, None)], [value(target, double, None)], tensors)
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=_imports(self.opsets)))


def read_graph(data: bytes, output: str | None = None) -> Graph:
    """The graph of an ONNX file, up to the tensor `output` (unless told: the model's own).

    Raises InputError for what is no usable ONNX file, UnsupportedModel for a model that cannot be computed under encryption.
    """
    model = _parse(data)
    proto = model.graph
    constants = {tensor.name: _constant(tensor) for tensor in proto.initializer}
    name, shape = _input(proto, constants)
    target = _output(proto, output)
    opsets = tuple((entry.domain, entry.version) for entry in model.opset_import if entry.domain == "")
    reader = _Reader(constants, opsets)
    for node in _needed(proto.node, target):
        reader.read(node)
    return Graph(tuple(reader.nodes), reader.constants, name, shape, reader.names.get(target, target), opsets)


class _Reader:
    """Rewrites nodes one by one, in the file's order, which ONNX asks to be one in which they can be computed."""

    def __init__(self, constants: dict[str, NDArray[Any]], opsets: tuple[tuple[str, int], ...]) -> None:
        self.constants = constants
        self.opsets = opsets
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}

    def read(self, proto: Any) -> None:
        node = Node(
            proto.name or f"the one that makes {proto.output[0]!r}", proto.op_type, tuple(proto.input), proto.output[0], proto
        )
        if proto.op_type not in OPERATORS or proto.domain not in {"", "ai.onnx.ml"}:
            hint = _INSTEAD.get(proto.op_type, f"what can be computed under encryption is {', '.join(OPERATORS)}")
            raise node.refuse(f"this operator is not supported; {hint}. To end the model before it, name the tensor to end at")
        if any(proto.output[1:]) and proto.op_type not in {"BatchNormalization", "Dropout", "LinearClassifier"}:
            raise node.refuse("more than one result is used; only the first can be")
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute}
        if proto.op_type == "Constant" or (proto.input and all(not name or name in self.constants for name in proto.input)):
            self._fold(node)
            return
        rewrite = getattr(self, f"_on_{proto.op_type.lower()}", None)
        if rewrite is None:
            self._emit(node, proto.op_type, node.inputs, attributes)
        else:
            rewrite(node, attributes)

    def _emit(self, node: Node, operator: str, inputs: Sequence[str], attributes: dict[str, Any], output: str = "") -> None:
        output = output or node.output
        # An activation is never evaluated by the `onnx` package, so that our own Square has a proto that it would not know.
        proto = onnx.helper.make_node(operator, inputs, [output], name=node.name, **attributes)
        self.nodes.append(Node(node.name, operator, tuple(inputs), output, proto))

    def _constant(self, node: Node, suffix: str, value: Any) -> str:
        name = f"{node.output}/{suffix}"
        self.constants[name] = np.asarray(value)
        return name

    def _fold(self, node: Node) -> None:
        if node.operator in ACTIVATIONS:
            raise node.refuse("a constant goes through it; write its result into the model")
        value = onnx.helper.make_tensor_value_info(node.output, onnx.TensorProto.DOUBLE, None)
        tensors = [numpy_helper.from_array(self.constants[name], name) for name in set(node.inputs) if name]
        graph = onnx.helper.make_graph([node.proto], "constant", [], [value], tensors)
        result = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=_imports(self.opsets))).run(None, {})[0]
        self.constants[node.output] = _plain(np.asarray(result), node.output)

    def _on_cast(self, node: Node, attributes: dict[str, Any]) -> None:
        if attributes["to"] not in {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}:
            raise node.refuse("rounding to integers cannot be done under encryption; cast to a float")
        self._emit(node, "Identity", node.inputs, {})

    def _on_dropout(self, node: Node, attributes: dict[str, Any]) -> None:
        self._emit(node, "Identity", node.inputs[:1], {})

    def _on_batchnormalization(self, node: Node, attributes: dict[str, Any]) -> None:
        if attributes.get("training_mode", 0):
            raise node.refuse("it is in training mode; export the model for inference")
        self._emit(node, "BatchNormalization", node.inputs, {"epsilon": attributes.get("epsilon", 1e-5)})

    def _on_mul(self, node: Node, attributes: dict[str, Any]) -> None:
        if node.inputs[0] == node.inputs[1]:
            self._emit(node, "Square", node.inputs[:1], {})
        else:
            self._emit(node, "Mul", node.inputs, attributes)

    def _on_pow(self, node: Node, attributes: dict[str, Any]) -> None:
        exponent = self.constants.get(node.inputs[1])
        if exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2:
            raise node.refuse("only the square is supported: an exponent of 2")
        self._emit(node, "Square", node.inputs[:1], {})

    def _on_clip(self, node: Node, attributes: dict[str, Any]) -> None:
        bounds = [attributes.get("min", -np.inf), attributes.get("max", np.inf)]
        for place, name in enumerate(node.inputs[1:3]):
            if name and name not in self.constants:
                raise node.refuse("its bounds must be constants")
            bounds[place] = float(self.constants[name].reshape(())) if name else bounds[place]
        names = [self._constant(node, f"bound{place}", np.float64(bound)) for place, bound in enumerate(bounds)]
        self._emit(node, "Clip", [node.inputs[0], *names], {})

    def _on_reshape(self, node: Node, attributes: dict[str, Any]) -> None:
        shape = self.constants.get(node.inputs[1])
        if shape is None or shape.size < 2 or shape[0] not in {-1, 0, 1}:
            raise node.refuse("the shape must be a constant that keeps the first axis, that of the samples")
        # A -1 elsewhere says how many numbers a sample has; then the first axis is kept as it is (0), else it is what is left
        # (-1).
        first = 0 if -1 in shape[1:] else -1
        self._emit(node, "Reshape", [node.inputs[0], self._constant(node, "shape", np.concatenate([[first], shape[1:]]))], {})

    def _on_scaler(self, node: Node, attributes: dict[str, Any]) -> None:
        offset, scale = (np.array(attributes[key], dtype=np.float64) for key in ("offset", "scale"))
        self._emit(node, "Sub", [node.inputs[0], self._constant(node, "offset", offset)], {}, f"{node.output}/centred")
        self._emit(node, "Mul", [f"{node.output}/centred", self._constant(node, "scale", scale)], {})

    def _on_linearregressor(self, node: Node, attributes: dict[str, Any]) -> None:
        self._linear(node, attributes, node.output)

    def _on_linearclassifier(self, node: Node, attributes: dict[str, Any]) -> None:
        """Its first result is the label, which nobody can compute under encryption; the second are the scores."""
        scores = node.proto.output[1]
        link = {b"LOGISTIC": "Sigmoid", b"SOFTMAX": "Softmax"}.get(attributes.get("post_transform", b"NONE"))
        self._linear(node, attributes, f"{scores}/linear" if link else scores)
        if link:
            self._emit(node, link, [f"{scores}/linear"], {}, scores)

    def _linear(self, node: Node, attributes: dict[str, Any], output: str) -> None:
        if attributes.get("post_transform", b"NONE") not in {b"NONE", b"LOGISTIC", b"SOFTMAX"}:
            raise node.refuse("only the transforms NONE, LOGISTIC and SOFTMAX are supported")
        bias = np.array(attributes["intercepts"], dtype=np.float64)
        weights = np.array(attributes["coefficients"], dtype=np.float64).reshape(len(bias), -1)
        names = [self._constant(node, "weights", weights.T), self._constant(node, "bias", bias)]
        self._emit(node, "Gemm", [node.inputs[0], *names], {}, output)


def _parse(data: bytes) -> Any:
    if len(data) > MAX_FILE:
        raise InputError(f"the model is larger than {MAX_FILE} bytes; no model of that size runs under encryption")
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, and the checker's own, which share no class
        raise InputError(
            f"this is not a valid ONNX model: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from error
    version = max((entry.version for entry in model.opset_import if entry.domain == ""), default=0)
    if version < _OLDEST or len(model.functions):
        raise InputError(f"the model must use ONNX operator set {_OLDEST} or later, and no functions; export it again")
    return model


def _input(proto: Any, constants: Iterable[str]) -> tuple[str, tuple[int, ...]]:
    inputs = [entry for entry in proto.input if entry.name not in set(constants)]
    if len(inputs) != 1:
        raise InputError(f"a model has one input, and this one has {len(inputs)}: {', '.join(entry.name for entry in inputs)}")
    tensor = inputs[0].type.tensor_type
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    if tensor.elem_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}:
        raise InputError(f"the input {inputs[0].name!r} must be of floats; export the model again")
    if len(sizes) < 2 or sizes[0] not in {0, 1} or not all(size > 0 for size in sizes[1:]):
        raise InputError(f"the input {inputs[0].name!r} must have a first axis for samples (1 or free) and fixed other axes")
    return inputs[0].name, tuple(sizes[1:])


def _output(proto: Any, asked: str | None) -> str:
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    outputs = [entry.name for entry in proto.output if entry.type.tensor_type.elem_type in floats]
    if asked is not None:
        if not any(asked in node.output for node in proto.node):
            raise InputError(f"the model has no tensor {asked!r} to end at")
        return asked
    if len(outputs) != 1:
        raise InputError(f"the model has {len(outputs)} outputs of floats; name the tensor to end at")
    return str(outputs[0])


def _needed(nodes: Sequence[Any], target: str) -> list[Any]:
    """The nodes on which `target` depends, in the file's order."""
    wanted, needed = {target}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            needed.append(node)
    return needed[::-1]


def _constant(tensor: Any) -> NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError(f"the constant {tensor.name!r} lies in another file; save the model as one file")
    return _plain(numpy_helper.to_array(tensor), tensor.name)


def _plain(value: NDArray[Any], name: str) -> NDArray[Any]:
    if not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value) or not np.all(np.isfinite(value)):
        raise InputError(f"the constant {name!r} must be of finite numbers")
    return value.astype(np.int64 if np.issubdtype(value.dtype, np.integer) else np.float64)


def _imports(opsets: Sequence[tuple[str, int]]) -> list[Any]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
