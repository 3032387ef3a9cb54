"""A process that computes on ciphertexts: one job at a time, for a parent that may kill it.

It runs in the worker's environment (`python -m fhe.worker`) with the libraries that encrypt, which are heavy, want an old numpy,
and have been seen to crash on bytes they did not like; so none of them is ever loaded into a daemon. It opens no socket, reads
the files that its parent names, writes the evaluation keys and caches that it is asked for, and leaves no core dump.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import msgspec

from fhe.backend import Engine, open_engine
from fhe.bundle import Bundle
from fhe.errors import BundleError, InputError, Refused, Unavailable
from fhe.pipe import (
    Answer,
    Decrypt,
    Done,
    Drop,
    Encrypt,
    Expand,
    Failed,
    Hello,
    Infer,
    Keygen,
    Open,
    PipeError,
    Request,
    array_bytes,
    read_array,
    read_frame,
    request_decoder,
    split,
    write_frame,
)

PACKAGES = ("concrete-python", "numpy", "tenseal")

Reply = tuple[Answer, Iterable[bytes]]


class Desk:
    """What the worker has open: models, and expanded keys."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._keys: dict[tuple[str, str], object] = {}

    def handle(self, request: Request, body: bytes) -> Reply:
        """The answer. Raises FheError, and whatever a library raises."""
        started = time.perf_counter()
        sizes: tuple[int, ...] = ()
        array, data = None, []
        match request:
            case Open(model=model, bundle=path, cache=cache):
                if model not in self._engines:
                    self._engines[model] = _open(Path(path), model, Path(cache))
            case Keygen(model=model, key=path):
                data = [self._engine(model).keygen(Path(path))]
                sizes = (len(data[0]),)
            case Encrypt(model=model, secret=secret, array=form):
                key, rest = _secret(body, secret)
                data = self._engine(model).encrypt(key, read_array(form, rest))
                sizes = tuple(map(len, data))
            case Decrypt(model=model, secret=secret, sizes=lengths):
                key, rest = _secret(body, secret)
                array, raw = array_bytes(self._engine(model).decrypt(key, split(rest, lengths)))
                data = [raw]
            case Expand(model=model, id=identifier, key=path):
                self._keys[model, identifier] = self._engine(model).expand(Path(path))
            case Drop(model=model, id=identifier):
                self._keys.pop((model, identifier), None)
            case Infer(model=model, id=identifier):
                data = [self._engine(model).infer(self._keys[model, identifier], body)]
                sizes = (len(data[0]),)
        return Done(seconds=time.perf_counter() - started, sizes=sizes, array=array), data

    def _engine(self, model: str) -> Engine:
        return self._engines[model]


def _open(path: Path, model: str, cache: Path) -> Engine:
    return open_engine(Bundle.open_known(path, model), cache)


def _secret(body: bytes, length: int) -> tuple[bytes, memoryview]:
    if not 0 < length <= len(body):
        raise PipeError("the secret is not as long as the header says")
    return body[:length], memoryview(body)[length:]


def _answer(desk: Desk, header: bytes, body: bytes) -> Reply:
    try:
        return desk.handle(request_decoder.decode(header), body)
    except Refused as error:
        return Failed(kind="refused", text=str(error), why=error.why), ()
    except BundleError as error:
        return Failed(kind="bundle", text=str(error)), ()
    except Unavailable as error:
        return Failed(kind="unavailable", text=str(error)), ()
    except InputError as error:
        return Failed(kind="input", text=str(error)), ()
    except ImportError as error:
        return Failed(kind="unavailable", text=f"the worker's environment lacks {error.name}; make it with: make .venv-fhe"), ()
    except Exception as error:
        # By its type alone: a library's own words could quote what it was given.
        return Failed(kind="failed", text=f"the library failed ({type(error).__name__})"), ()


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> NoReturn:
    """Serve until the parent closes the pipe."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The pipe is ours alone: what a library prints goes where errors go.
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    desk = Desk()

    def send(answer: Answer, body: Iterable[bytes] = ()) -> None:
        for piece in write_frame(answer, body):
            outgoing.write(piece)
        outgoing.flush()

    try:
        send(Hello(versions=_versions()))
        while True:
            send(*_answer(desk, *read_frame(incoming.read)))
    except (PipeError, BrokenPipeError, msgspec.MsgspecError):
        pass
    # Not by the usual way: a library's own tidying up may hang, and there is nothing to save.
    os._exit(0)


if __name__ == "__main__":
    main()
