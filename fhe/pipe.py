"""What a worker and its parent say to each other over a pipe: frames with a strict header, and bytes. Nothing is unpickled.

    frame = length of the header (4 bytes, big-endian) ‖ length of the body (8 bytes) ‖ header (JSON) ‖ body

A worker begins with `Hello`. Then each request has one answer, `Done` or `Failed`, in order. Bodies carry what is secret (keys,
values) or large; evaluation keys are larger still, and go by the paths of their files. Arrays are little-endian and row-major.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
import numpy as np

from fhe.backend import Values
from fhe.bundle import Struct
from fhe.errors import Why

MAX_HEADER = 1024 * 1024
MAX_BODY = 2 * 1024 * 1024 * 1024
PREFIX = struct.Struct(">IQ")

_ITEM = 8  # bytes of either type


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The worker is ready."""

    versions: dict[str, str]
    """Package to version, of what is installed beside it."""


class Array(Struct, frozen=True, kw_only=True):
    """The form of an array in a body."""

    shape: tuple[int, ...]
    type: Literal["float64", "int64"]


class Open(Struct, frozen=True, kw_only=True, tag="open"):
    """Get a model ready. Asked before anything else of that model."""

    model: str
    """Hash of the bundle. The worker compares, so that a file that was replaced meanwhile is refused."""
    bundle: str
    """Path."""
    cache: str
    """Path of a private directory that outlives the worker."""


class Keygen(Struct, frozen=True, kw_only=True, tag="keygen"):
    """Answered with the secret; the evaluation key is in the new file."""

    model: str
    key: str
    """Path."""


class Encrypt(Struct, frozen=True, kw_only=True, tag="encrypt"):
    """Body: the secret, then the array. Answered with payloads."""

    model: str
    secret: int
    """Bytes of the body that are the secret."""
    array: Array


class Decrypt(Struct, frozen=True, kw_only=True, tag="decrypt"):
    """Body: the secret, then the payloads. Answered with an array."""

    model: str
    secret: int
    sizes: tuple[int, ...]


class Expand(Struct, frozen=True, kw_only=True, tag="expand"):
    """Load an evaluation key, and keep it under `id`."""

    model: str
    id: str
    key: str
    """Path."""


class Drop(Struct, frozen=True, kw_only=True, tag="drop"):
    """Forget an evaluation key."""

    model: str
    id: str


class Infer(Struct, frozen=True, kw_only=True, tag="infer"):
    """Body: one payload. Answered with one."""

    model: str
    id: str
    """Of a key that was expanded."""


Request = Open | Keygen | Encrypt | Decrypt | Expand | Drop | Infer


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """It worked."""

    seconds: float
    """That the work took, without the pipe."""
    sizes: tuple[int, ...] = ()
    """Of the payloads in the body, or of the secret."""
    array: Array | None = None


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """It did not, and the worker lives on."""

    kind: Literal["refused", "bundle", "unavailable", "input", "failed"]
    """Which of `fhe.errors` the parent raises."""
    text: str
    why: Why | None = None


Answer = Hello | Done | Failed

request_decoder = msgspec.json.Decoder(Request)
answer_decoder = msgspec.json.Decoder(Answer)


class PipeError(Exception):
    """The other side does not speak this language, or has gone."""


def write_frame(header: Request | Answer, body: Iterable[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """The pieces of a frame, in order."""
    raw, pieces = msgspec.json.encode(header), list(body)
    return [PREFIX.pack(len(raw), sum(map(len, pieces))), raw, *pieces]


def frame_lengths(prefix: bytes) -> tuple[int, int]:
    """Of the header and of the body. Raises PipeError."""
    if len(prefix) != PREFIX.size:
        raise PipeError("the pipe ended")
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER or body > MAX_BODY:
        raise PipeError("a frame is larger than one may be")
    return int(header), int(body)


def read_frame(read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """Header and body, by a `read` that gives as many bytes as it is asked for, fewer only at the end. Raises PipeError."""
    header, body = frame_lengths(read(PREFIX.size))
    raw, data = read(header), read(body)
    if len(raw) != header or len(data) != body:
        raise PipeError("the pipe ended within a frame")
    return raw, data


def array_bytes(values: Values) -> tuple[Array, bytes]:
    """The form of an array, and its bytes."""
    kind: Literal["float64", "int64"] = "float64" if values.dtype.kind == "f" else "int64"
    return Array(shape=values.shape, type=kind), values.astype("<f8" if kind == "float64" else "<i8").tobytes()


def read_array(form: Array, data: bytes | memoryview) -> Values:
    """The array of that form. Raises PipeError when the bytes are not as many as it has."""
    if any(axis < 0 for axis in form.shape) or len(data) != _ITEM * math.prod(form.shape):
        raise PipeError("an array is not as long as its header says")
    if form.type == "float64":
        return np.frombuffer(data, np.dtype("<f8")).astype(np.float64).reshape(form.shape)
    return np.frombuffer(data, np.dtype("<i8")).astype(np.int64).reshape(form.shape)


def split(data: bytes | memoryview, sizes: Iterable[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes. Raises PipeError when they are not its pieces."""
    view, pieces, at = memoryview(data), [], 0
    for size in sizes:
        pieces.append(bytes(view[at : at + size]))
        at += size
    if at != len(view) or min(map(len, pieces), default=0) < 0:
        raise PipeError("the pieces of a body are not as long as its header says")
    return pieces
