"""Small ONNX graphs in ONNX's own text form, and what onnxruntime computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray

HEAD = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'


def graph(text: str) -> bytes:
    """The file of `text`: NAME (INPUTS) => (OUTPUTS) <CONSTANTS> { NODES }."""
    data: bytes = onnx.parser.parse_model(f"{HEAD}\n{text}").SerializeToString()
    return data


def reference(data: bytes, samples: NDArray[Any]) -> NDArray[np.float64]:
    """The last output of the model, flat, as onnxruntime computes it."""
    session = onnxruntime.InferenceSession(data)
    result = session.run(None, {session.get_inputs()[0].name: samples.astype(np.float32)})[-1]
    return np.asarray(result, dtype=np.float64).reshape(len(samples), -1)
