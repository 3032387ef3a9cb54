"""Networks that the project trains itself, on scikit-learn's data sets, as ONNX files: tests and timings need no other data.

cancer_logistic     30 features, standardised, one affine map, a sigmoid
digits_relu         64 pixels, 32 units with Relu, ten scores
digits_square       1 x 8 x 8 pixels, eight convolutions of 3 x 3 with padding, each squared, ten scores
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

Array = NDArray[Any]

_OPSET = 17


@dataclass(frozen=True, slots=True)
class Network:
    """An ONNX file, and data that it was not trained with."""

    data: bytes
    samples: Array
    labels: Array


def cancer_logistic() -> Network:
    """Benign or malignant."""
    rows, labels = load_breast_cancer(return_X_y=True)
    scaler = StandardScaler().fit(rows[::2])
    model = LogisticRegression().fit(scaler.transform(rows[::2]), labels[::2])
    constants = {"mean": scaler.mean_, "scale": scaler.scale_, "weights": model.coef_.T, "bias": model.intercept_}
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"], name="centre"),
        helper.make_node("Div", ["centred", "scale"], ["standard"], name="scale"),
        helper.make_node("Gemm", ["standard", "weights", "bias"], ["score"], name="score"),
        helper.make_node("Sigmoid", ["score"], ["y"], name="probability"),
    ]
    return Network(write_network(nodes, constants, (30,), 1), rows[1::2], labels[1::2])


def digits_relu() -> Network:
    """Which digit, by one hidden layer."""
    rows, labels = load_digits(return_X_y=True)
    model = MLPClassifier((32,), learning_rate_init=0.01, random_state=1, early_stopping=True).fit(rows[::2] / 16, labels[::2])
    (first, second), (low, high) = model.coefs_, model.intercepts_
    constants = {"sixteen": np.array(16.0), "w1": first, "b1": low, "w2": second, "b2": high}
    nodes = [
        helper.make_node("Div", ["x", "sixteen"], ["shade"], name="shade"),
        helper.make_node("MatMul", ["shade", "w1"], ["sum"], name="hidden"),
        helper.make_node("Add", ["sum", "b1"], ["hidden"], name="bias"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["y"], name="scores"),
    ]
    return Network(write_network(nodes, constants, (64,), 10), rows[1::2], labels[1::2])


def digits_square() -> Network:
    """Which digit, by convolutions drawn at random, squares, and a regression on them."""
    rows, labels = load_digits(return_X_y=True)
    images = rows.reshape(-1, 1, 8, 8) / 16
    dice = np.random.default_rng(3)
    kernels, bias = dice.normal(size=(8, 1, 3, 3)) / 3, dice.normal(size=8) / 3
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images[:, 0], ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    features = (np.einsum("nijkl,ckl->ncij", windows, kernels[:, 0]) + bias[:, None, None]) ** 2
    features = features.reshape(len(features), -1)
    model = RidgeClassifier().fit(features[::2], labels[::2])
    constants = {"kernels": kernels, "bias": bias, "weights": model.coef_, "scores": model.intercept_}
    nodes = [
        helper.make_node("Conv", ["x", "kernels", "bias"], ["seen"], name="look", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["seen", "seen"], ["squared"], name="square"),
        helper.make_node("Flatten", ["squared"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "weights", "scores"], ["y"], name="scores", transB=1),
    ]
    return Network(write_network(nodes, constants, (1, 8, 8), 10), images[1::2], labels[1::2])


def write_network(nodes: Sequence[Any], constants: Mapping[str, Array], shape: tuple[int, ...], results: int) -> bytes:
    """The ONNX file of a graph from "x", samples of `shape`, to "y", so many numbers each. Real constants become floats."""
    tensors = [
        numpy_helper.from_array(value if value.dtype.kind == "i" else value.astype(np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["samples", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["samples", results])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
