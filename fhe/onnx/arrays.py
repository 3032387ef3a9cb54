"""Samples from files, as numpy writes them: one array in `.npy`, several in `.npz`, or a `.zip` of `.npy` files, one sample each.

Nothing is unpickled, and nothing is unpacked before its size is known.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhe.errors import InputError
from fhe.files import read_file

MAX_BYTES = 1024 * 1024 * 1024

Array = NDArray[np.float64]


def read_samples(path: Path, shape: tuple[int, ...]) -> Array:
    """(samples, *shape) in float64. An array holds one sample or several, in `shape` or flat; axes of one do not matter.

    Raises InputError.
    """
    one = {_long(shape), _long((math.prod(shape),))}
    rows = []
    for name, array in read_arrays(path):
        if not array.size or (_long(array.shape) not in one and _long(array.shape[1:]) not in one):
            raise InputError(
                f"{name} has the shape {array.shape}, and samples of this model have {('samples', *shape)}; see {path}"
            )
        rows.append(array.reshape(-1, *shape))
    return np.concatenate(rows)


def read_arrays(path: Path) -> list[tuple[str, Array]]:
    """Names and arrays of one file, at least one. Raises InputError."""
    data = read_file(path, MAX_BYTES)
    if data[:2] != b"PK":
        return [("the array", _array(data, str(path)))]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if not entries or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise InputError(f"{path} holds no .npy files, or more than {MAX_BYTES} bytes of them")
            return [(entry.filename, _array(_unpack(archive, entry), f"{entry.filename} in {path}")) for entry in entries]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is a damaged zip file; make it again") from error


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in shape if axis != 1)


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _array(data: bytes, name: str) -> Array:
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"{name} is no array as numpy.save writes it, of numbers") from error
    if array.dtype.kind not in "fiub" or not np.all(np.isfinite(array)):
        raise InputError(f"{name} must hold finite real numbers")
    return np.asarray(array, dtype=np.float64)
