"""A graph as a chain: an affine map, an activation, an affine map, and so on. That is what can be computed under encryption.

Between two activations any number of nodes make one affine map; which one is found by asking them about the unit vectors, so
that no operator needs arithmetic of its own here. A value may go several ways within a map, but not past an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fhe.errors import UnsupportedModel
from fhe.onnx.graph import ACTIVATIONS, AFFINE, Array, Graph, Node

Link = Literal["identity", "sigmoid", "softmax"]
LINKS: dict[str, Link] = {"Sigmoid": "sigmoid", "Softmax": "softmax"}
"""Activations that the client may apply to what it decrypted, when they come last."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Activation:
    """One function, applied to each number alike."""

    node: Node
    low: float = -np.inf
    """Of a Clip: its bounds."""
    high: float = np.inf

    def __call__(self, values: Array) -> Array:
        """In clear."""
        match self.node.operator:
            case "Square":
                return values * values
            case "Relu":
                return np.maximum(values, 0.0)
            case "Sigmoid":
                return 1.0 / (1.0 + np.exp(-np.clip(values, -500.0, 500.0)))
            case "Tanh":
                return np.tanh(values)
            case "Clip":
                return np.clip(values, self.low, self.high)
        raise AssertionError("the others are left to the client")


@dataclass(frozen=True, slots=True)
class Segment:
    """An affine map, and what follows it."""

    nodes: tuple[Node, ...]
    activation: Activation | None
    """None at the end of the chain."""
    shape: tuple[int, ...]
    """Of one sample that goes in."""
    source: str
    evaluator: Any = field(repr=False)
    """None for a map that changes nothing."""

    def __call__(self, values: Array) -> Array:
        """(samples, numbers in) -> (samples, numbers out), in clear."""
        if self.evaluator is None:
            return values
        result = self.evaluator.run(None, {self.source: values.reshape(len(values), *self.shape)})[0]
        return np.asarray(result, dtype=np.float64).reshape(len(values), -1)

    def matrix(self) -> tuple[Array, Array]:
        """A of (numbers out, numbers in) and b, such that the map is A x + b."""
        size = int(np.prod(self.shape))
        bias = self(np.zeros((1, size)))[0]
        unit = np.eye(size)
        columns = [self(unit[start : start + _BATCH]) - bias for start in range(0, size, _BATCH)]
        return np.concatenate(columns).T, bias


@dataclass(frozen=True, slots=True)
class Chain:
    """A whole network."""

    graph: Graph
    segments: tuple[Segment, ...]
    link: Link
    """What the client applies at the end: identity, sigmoid or softmax."""
    output_shape: tuple[int, ...]

    def __call__(self, values: Array) -> Array:
        """(samples, *shape) -> (samples, numbers out), in clear and exactly as the graph says, without the link."""
        result = values.reshape(len(values), -1)
        for segment in self.segments:
            result = segment(result)
            if segment.activation is not None:
                result = segment.activation(result)
        return result


def make_chain(graph: Graph) -> Chain:
    """Cuts a graph at its activations. Raises UnsupportedModel for a graph that is no chain."""
    levels = _levels(graph)
    if graph.output not in levels:
        raise UnsupportedModel("the model's output does not depend on its input")
    last = next((node for node in graph.nodes if node.output == graph.output), None)
    link: Link = "identity"
    end = graph.output
    if last is not None and last.operator in LINKS:
        _check_link(last)
        link, end = LINKS[last.operator], last.inputs[0]
    segments, source, shape = [], graph.input, graph.shape
    for level in range(levels[end] + 1):
        activation = next(
            (node for node in graph.nodes if node.operator in ACTIVATIONS and levels[node.inputs[0]] == level), None
        )
        nodes = [node for node in graph.nodes if levels.get(node.output) == level and node.operator in AFFINE]
        target = end if level == levels[end] else (activation.inputs[0] if activation else end)
        segment = _segment(graph, nodes, source, target, shape, None if level == levels[end] else activation)
        shape = _check(segment, target)
        segments.append(segment)
        if segment.activation is not None:
            source = segment.activation.node.output
    return Chain(graph, tuple(segments), link, shape)


def _levels(graph: Graph) -> dict[str, int]:
    """For each value that depends on the input, how many activations lie before it."""
    levels = {graph.input: 0}
    cuts: dict[int, Node] = {}
    for node in graph.nodes:
        places = [place for place, name in enumerate(node.inputs) if name in levels]
        found = {levels[node.inputs[place]] for place in places}
        if node.operator in ACTIVATIONS:
            level = found.pop()
            if node.operator == "Softmax" and node.output != graph.output:
                raise node.refuse("it can only be the last of the model, for the client to apply after decryption")
            if level in cuts:
                raise node.refuse(f"it stands beside {cuts[level].name!r}; a network has one activation after another")
            cuts.setdefault(level, node)
            levels[node.output] = level + 1
        elif len(found) > 1:
            raise node.refuse("it joins values from before and after an activation; only plain chains are supported")
        elif not set(places) <= AFFINE[node.operator] or (len(places) > 1 and node.operator not in {"Add", "Sub", "Gemm"}):
            raise node.refuse("this place takes a constant; of encrypted values only sums and one value's square are computed")
        else:
            levels[node.output] = found.pop()
    return levels


def _check_link(node: Node) -> None:
    axis = next((entry.i for entry in node.proto.attribute if entry.name == "axis"), -1)
    if node.operator == "Softmax" and axis not in {-1, 1}:
        raise node.refuse("a softmax goes over the last axis")


def _segment(
    graph: Graph, nodes: Sequence[Node], source: str, target: str, shape: tuple[int, ...], activation: Node | None
) -> Segment:
    used = _behind(nodes, target)
    evaluator = graph.evaluator(used, source, target) if used else None
    bounds = [float(graph.constants[name].reshape(())) for name in activation.inputs[1:]] if activation else []
    return Segment(tuple(used), Activation(activation, *bounds) if activation else None, shape, source, evaluator)


def _behind(nodes: Sequence[Node], target: str) -> list[Node]:
    wanted, used = {target}, []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted |= set(node.inputs)
            used.append(node)
    return used[::-1]


def _check(segment: Segment, target: str) -> tuple[int, ...]:
    """The shape of what comes out, after a look at whether the map is affine, and does to one sample what it does to it among
    others."""
    if segment.evaluator is None:
        return segment.shape
    names = ", ".join(f"{node.name!r} ({node.operator})" for node in segment.nodes)
    dice = np.random.default_rng(7)
    some = dice.uniform(-1, 1, (2, *segment.shape))
    probes = np.stack([some[0], some[1], some[0] + some[1], np.zeros_like(some[0])])
    try:
        result = np.asarray(segment.evaluator.run(None, {segment.source: probes})[0], dtype=np.float64)
        alone = np.asarray(segment.evaluator.run(None, {segment.source: probes[:1]})[0], dtype=np.float64)
    except Exception as error:  # the library's functions raise whatever numpy raises for shapes that do not fit
        raise UnsupportedModel(f"the nodes {names} do not fit each other: {error}") from error
    fits = result.shape[:1] == (4,) and alone.shape == (1, *result.shape[1:]) and result.ndim > 1
    if not fits or not np.allclose(alone[0], result[0]) or not np.allclose(result[0] + result[1], result[2] + result[3]):
        raise UnsupportedModel(f"the nodes {names} mix samples with each other; keep the first axis for the samples")
    return result.shape[1:]
