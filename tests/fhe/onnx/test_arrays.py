"""Samples from files of numpy's."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fhe.errors import InputError
from fhe.onnx.arrays import read_samples


def test_one_sample_or_several_in_shape_or_flat(tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=np.float32)
    for shape in ((2, 1, 3, 4), (2, 3, 4), (2, 12), (2, 1, 12)):
        np.save(tmp_path / "x.npy", numbers.reshape(shape))
        np.testing.assert_array_equal(read_samples(tmp_path / "x.npy", (1, 3, 4)), numbers.reshape(2, 1, 3, 4))


def test_one_sample_alone_may_have_its_axes_of_one_or_not(tmp_path: Path) -> None:
    for shape in ((1, 1, 3, 4), (1, 3, 4), (3, 4), (12,), (1, 12)):
        np.save(tmp_path / "x.npy", np.ones(shape))
        assert read_samples(tmp_path / "x.npy", (1, 3, 4)).shape == (1, 1, 3, 4)


def test_an_npz_and_a_zip_hold_several_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.ones((3, 2)), b=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("1.npy", "readme.txt", "2.npy"):
            out = io.BytesIO()
            np.save(out, np.full(2, 7))
            archive.writestr(name, out.getvalue())
    assert read_samples(tmp_path / "x.npz", (2,)).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert read_samples(tmp_path / "x.zip", (2,)).tolist() == [[7, 7], [7, 7]]


def _npy(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array), allow_pickle=True)
    return out.getvalue()


def _zip(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


BAD = {
    "objects": _npy(np.array([{}], dtype=object)),
    "a bare pickle": pickle.dumps([1.0, 2.0]),
    "complex numbers": _npy([1j, 2]),
    "texts": _npy(["a", "b"]),
    "not a number": _npy([1.0, np.nan]),
    "too many": _npy([1.0, 2, 3]),
    "two samples in one row": _npy([1.0, 2, 3, 4]),
    "none": _npy(np.zeros((0, 2))),
    "cut off": _npy([1.0, 2])[:-4],
    "a shape that is a lie": _npy(np.zeros(2)).replace(b"(2,)", b"(9,)"),
    "nothing": b"",
    "an empty zip": _zip(),
    "a zip of objects": _zip(a=_npy(np.array([{}], dtype=object))),
    "a cut zip": _zip(a=_npy([1.0, 2]))[:40],
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_anything_else_is_an_input_error_and_nothing_is_unpickled(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError):
        read_samples(tmp_path / "x", (2,))


def test_a_zip_that_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a.npy")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(entry, b"x")
    # The directory's uncompressed size, in the central record's bytes 24 to 28.
    raw = bytearray(out.getvalue())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(raw)
    with pytest.raises(InputError, match="more than"):
        read_samples(tmp_path / "x.zip", (2,))
