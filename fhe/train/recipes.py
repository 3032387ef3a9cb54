"""How each kind of model is trained and quantised by Concrete ML. All see features moved to -1 .. 1 by their declared ranges.

Concrete ML takes the range that it quantises from the data that it is shown, and would tell clients its least and greatest value.
So every recipe shows it two rows more, at the ends of the declared ranges, which weigh nothing in the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhe.errors import InputError
from fhe.train.job import Job, Recipe

Array = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A model in clear and as it is quantised."""

    mlir: str
    quantise: Callable[[Array], Array]
    """Of units: what is encrypted."""
    infer: Callable[[Array], Array]
    """Of what is encrypted, (samples, features): the circuit's results in clear, (samples, results)."""
    input_quantiser: Any
    output_quantiser: Any
    clear: Callable[[Array], Array]
    """Of units: scores, (samples, results), before the link."""
    link: Literal["identity", "sigmoid", "softmax"]
    linear: bool


def train(job: Job, units: Array, target: Array, classes: int) -> Trained:
    """The job's model, trained with `units`, (rows, features) within -1 .. 1. Raises InputError."""
    regression = job.recipe == "linear-regression"
    if regression != (classes == 0):
        raise InputError(f"{job.recipe} does not fit this data: it has {classes or 'no'} classes")
    return _RECIPES[job.recipe](job, units, target, classes)


def _linear(job: Job, units: Array, target: Array, classes: int) -> Trained:
    from concrete.ml import sklearn as quantised
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(units)
    if classes:
        model, kind = LogisticRegression(max_iter=10_000, random_state=job.seed), quantised.LogisticRegression
    else:
        model, kind = LinearRegression(), quantised.LinearRegression
    model.fit(scaler.transform(units), target)
    # Trained on standardised features, and written as a model of the units themselves.
    model.intercept_ = model.intercept_ - model.coef_ @ (scaler.mean_ / scaler.scale_)
    model.coef_ = model.coef_ / scaler.scale_
    shown = _with_ends(units)
    small = kind.from_sklearn_model(model, shown, n_bits=job.bits or 8)
    circuit = small.compile(shown)

    def clear(some: Array) -> Array:
        scores = model.decision_function(some) if classes else model.predict(some)
        return np.asarray(scores).reshape(len(some), -1)

    return Trained(
        mlir=circuit.mlir,
        quantise=small.quantize_input,
        infer=small._inference,
        input_quantiser=small.input_quantizers[0],
        output_quantiser=small.output_quantizers[0],
        clear=clear,
        link="identity" if not classes else "sigmoid" if classes == 2 else "softmax",
        linear=True,
    )


def _trees(job: Job, units: Array, target: Array, classes: int) -> Trained:
    from concrete.ml import sklearn as quantised
    from sklearn.ensemble import RandomForestClassifier
    from xgboost import XGBClassifier

    shared = {"n_estimators": job.trees, "max_depth": job.depth, "random_state": job.seed, "n_jobs": 1}
    boosted = job.recipe == "xgboost"
    kind = quantised.XGBClassifier if boosted else quantised.RandomForestClassifier
    small = kind(n_bits=job.bits or 3, **shared)
    # Summed under encryption: a client is not to get every tree's vote, from which the trees can be learnt.
    small._fhe_ensembling = True
    shown, weights = _with_ends(units), np.r_[np.ones(len(units)), 0.0, 0.0]
    small.fit(shown, np.r_[target, target[:2]], sample_weight=weights)
    circuit = small.compile(shown)
    plain = (XGBClassifier if boosted else RandomForestClassifier)(**shared).fit(units, target)

    def clear(some: Array) -> Array:
        scores = plain.predict(some, output_margin=True) if boosted else plain.predict_proba(some)
        return np.asarray(scores).reshape(len(some), -1)

    return Trained(
        mlir=circuit.mlir,
        quantise=small.quantize_input,
        infer=lambda rows: np.asarray(small._tree_inference(rows)[0]).reshape(len(rows), -1),
        input_quantiser=small.input_quantizers[0],
        output_quantiser=small.output_quantizers[0],
        clear=clear,
        link="identity" if not boosted else "sigmoid" if classes == 2 else "softmax",
        linear=False,
    )


def _network(job: Job, units: Array, target: Array, classes: int) -> Trained:
    import torch
    from concrete.ml.torch.compile import compile_torch_model
    from sklearn.neural_network import MLPClassifier

    plain = MLPClassifier(job.hidden, max_iter=2000, alpha=1e-2, random_state=job.seed).fit(units, target)
    layers: list[Any] = []
    for weights, bias in zip(plain.coefs_, plain.intercepts_, strict=True):
        layer = torch.nn.Linear(*weights.shape)
        layer.weight.data = torch.tensor(weights.T, dtype=torch.float32)
        layer.bias.data = torch.tensor(bias, dtype=torch.float32)
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    # The two ends stand in rows of data that is otherwise usual, or the layers behind would be quantised for what never comes.
    shown = np.vstack([units, units[:1]])
    shown[-1, 0], shown[-1, 1] = -1.0, 1.0
    bits = job.bits or 3
    module = compile_torch_model(model, shown, n_bits=bits, rounding_threshold_bits={"n_bits": bits + 1, "method": "exact"})

    def clear(some: Array) -> Array:
        with torch.no_grad():
            return np.asarray(model(torch.tensor(some, dtype=torch.float32)).numpy(), dtype=np.float64)

    return Trained(
        mlir=module.fhe_circuit.mlir,
        quantise=lambda some: np.asarray(module.quantize_input(some)),
        infer=lambda rows: np.asarray(module.quantized_forward(rows, fhe="disable")).reshape(len(rows), -1),
        input_quantiser=module.input_quantizers[0],
        output_quantiser=module.output_quantizers[0],
        clear=clear,
        link="sigmoid" if classes == 2 else "softmax",
        linear=False,
    )


def _with_ends(units: Array) -> Array:
    ends = np.ones((1, units.shape[1]))
    return np.vstack([units, -ends, ends])


_RECIPES: dict[Recipe, Callable[[Job, Array, Array, int], Trained]] = {
    "linear-regression": _linear,
    "logistic-regression": _linear,
    "xgboost": _trees,
    "random-forest": _trees,
    "mlp": _network,
}
