"""Workers and what they are given: one process a core, each with a memory of expanded keys, killed when it takes too long.

An evaluation key grows to some six times its file when it is expanded, and expanding it takes about as long as using it once. So
each worker keeps those that were used last, within its share of a budget, and a job goes to an idle worker that has its key
already. A worker that dies takes one job with it: the job fails, the next one finds a new worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from fhe.backend import Values
from fhe.bundle import Bundle
from fhe.environment import Environment
from fhe.errors import BundleError, FheError, InputError, Refused, Unavailable, Why, WorkerFailed
from fhe.pipe import (
    PREFIX,
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
    answer_decoder,
    array_bytes,
    frame_lengths,
    read_array,
    split,
    write_frame,
)

EXPANSION = 6
"""How much larger than its file an expanded key is, at most."""
PATIENCE = 300.0
"""Seconds that a request may take, if nothing else is said."""
START = 60.0
"""Seconds within which a worker is ready: its libraries come from a cold disk the first time."""


class Worker:
    """One process. One request at a time; the second waits. Start it, or use it in `async with`."""

    def __init__(self, environment: Environment, cache: Path) -> None:
        self._environment = environment
        self._cache = cache
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._opened: set[str] = set()
        self.versions: dict[str, str] = {}
        """Of the libraries beside it, once it runs."""

    def __repr__(self) -> str:
        return f"<Worker {self.pid}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self.alive and self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as one knows."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Raises Unavailable when it does not start."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._environment.command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environment.variables(),
                start_new_session=True,  # an interrupt at the terminal is for the parent, which then ends it
            )
            async with asyncio.timeout(START):
                hello, _ = await self._receive()
        except (OSError, TimeoutError, PipeError, msgspec.MsgspecError) as error:
            await self.stop()
            raise Unavailable(
                f"no worker starts with {self._environment.python}; make its environment anew with: make .venv-fhe"
            ) from error
        assert isinstance(hello, Hello), "a worker begins with its versions"
        self.versions = hello.versions

    async def stop(self) -> None:
        """Kill it and wait until it is gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # or the pipes outlive the loop

    async def open(self, bundle: Bundle) -> None:
        """Get the model ready, which is done once. Raises BundleError, Unavailable, WorkerFailed."""
        if bundle.hash in self._opened:
            return
        if not isinstance(bundle.source, Path):
            raise InputError("a worker reads a bundle from its file; write this one to a file first")
        await self.ask(Open(model=bundle.hash, bundle=str(bundle.source), cache=str(self._cache)))
        self._opened.add(bundle.hash)

    async def keygen(self, bundle: Bundle, key: Path, *, patience: float = PATIENCE) -> bytes:
        """New keys: the evaluation key is written to the new file `key`, the secret comes back."""
        await self.open(bundle)
        _, body = await self.ask(Keygen(model=bundle.hash, key=str(key)), patience=patience)
        return body

    async def encrypt(self, bundle: Bundle, secret: bytes, values: Values) -> list[bytes]:
        """One payload a sample."""
        await self.open(bundle)
        form, raw = array_bytes(values)
        done, body = await self.ask(Encrypt(model=bundle.hash, secret=len(secret), array=form), (secret, raw))
        return split(body, done.sizes)

    async def decrypt(self, bundle: Bundle, secret: bytes, payloads: Sequence[bytes]) -> Values:
        """The results, (samples, *output shape)."""
        await self.open(bundle)
        sizes = tuple(map(len, payloads))
        done, body = await self.ask(Decrypt(model=bundle.hash, secret=len(secret), sizes=sizes), (secret, *payloads))
        if done.array is None:
            raise WorkerFailed("the worker gave no result")
        return read_array(done.array, body)

    async def expand(self, bundle: Bundle, identifier: str, key: Path, *, patience: float = PATIENCE) -> None:
        """Load the evaluation key in the file `key`, without our header, and keep it as `identifier`."""
        await self.open(bundle)
        await self.ask(Expand(model=bundle.hash, id=identifier, key=str(key)), patience=patience)

    async def drop(self, bundle: Bundle, identifier: str) -> None:
        """Forget an evaluation key."""
        await self.ask(Drop(model=bundle.hash, id=identifier))

    async def infer(self, bundle: Bundle, identifier: str, payload: bytes, *, patience: float = PATIENCE) -> tuple[bytes, float]:
        """The result's payload, and the seconds that it took."""
        done, body = await self.ask(Infer(model=bundle.hash, id=identifier), (payload,), patience=patience)
        return body, done.seconds

    async def ask(self, request: Request, body: Sequence[bytes] = (), *, patience: float = PATIENCE) -> tuple[Done, bytes]:
        """The answer. Raises what the worker was told to raise, and WorkerFailed when it died, took too long or made no sense.

        A request that is given up, by time or by cancelling, takes the worker with it: nothing else would stop the computation.
        """
        async with self._lock:
            if self._process is None or not self.alive:
                raise WorkerFailed("the worker has died; try again")
            try:
                async with asyncio.timeout(patience):
                    answer, data = await self._exchange(self._process, request, body)
            except TimeoutError:
                await self.stop()
                raise WorkerFailed(f"the work took longer than {patience:g} seconds and was given up") from None
            except (PipeError, OSError, msgspec.MsgspecError):
                await self.stop()
                raise WorkerFailed("the worker died of this job") from None
            except asyncio.CancelledError:
                await self.stop()
                raise
        if isinstance(answer, Failed):
            raise _error(answer)
        return answer, data

    async def _exchange(
        self, process: asyncio.subprocess.Process, request: Request, body: Sequence[bytes]
    ) -> tuple[Done | Failed, bytes]:
        assert process.stdin is not None, "the worker's pipes are ours"
        process.stdin.writelines(write_frame(request, body))
        await process.stdin.drain()
        answer, data = await self._receive()
        if isinstance(answer, Hello):
            raise PipeError("the worker began anew")
        return answer, data

    async def _receive(self) -> tuple[Hello | Done | Failed, bytes]:
        assert self._process is not None, "the worker was started"
        assert self._process.stdout is not None, "the worker's pipes are ours"
        try:
            header, body = frame_lengths(await self._process.stdout.readexactly(PREFIX.size))
            raw = await self._process.stdout.readexactly(header)
            return answer_decoder.decode(raw), await self._process.stdout.readexactly(body)
        except asyncio.IncompleteReadError as error:
            raise PipeError("the pipe ended") from error


@dataclass(frozen=True, slots=True)
class Key:
    """An evaluation key on disk."""

    id: str
    path: Path
    """Of the payload, without our header."""
    size: int


@dataclass(slots=True)
class _Seat:
    """A place for a worker, and what it has in memory."""

    worker: Worker | None = None
    keys: OrderedDict[tuple[str, str], tuple[Bundle, int]] = field(default_factory=OrderedDict)
    """What it has expanded, the last used at the end, with the bytes that it is thought to take."""

    @property
    def memory(self) -> int:
        return sum(size for _, size in self.keys.values())


class Pool:
    """The workers of a service: `size` processes, which are started when they are first needed. Use it in `async with`."""

    def __init__(self, environment: Environment, cache: Path, *, size: int, memory: int) -> None:
        """`memory`: bytes that the expanded keys of all the workers may take together; every worker may have one at least."""
        assert size > 0, "a pool has workers"
        self._environment = environment
        self._cache = cache
        self._share = memory // size
        self._seats = [_Seat() for _ in range(size)]
        self._idle = list(self._seats)
        self._free = asyncio.Semaphore(size)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    @property
    def workers(self) -> list[Worker]:
        """Those that run."""
        return [seat.worker for seat in self._seats if seat.worker is not None and seat.worker.alive]

    async def infer(self, bundle: Bundle, key: Key, payload: bytes, *, patience: float = PATIENCE) -> tuple[bytes, float]:
        """One result's payload and the seconds that it took, on a worker that has the key already, if one is idle.

        Raises WorkerFailed when the worker died or took too long, which costs nobody else a job; Refused, BundleError,
        Unavailable.
        """
        async with self._seat((bundle.hash, key.id)) as seat:
            worker = await self._worker(seat)
            if (bundle.hash, key.id) not in seat.keys:
                await self._make_room(seat, worker, key.size * EXPANSION)
                await worker.expand(bundle, key.id, key.path, patience=patience)
                seat.keys[bundle.hash, key.id] = (bundle, key.size * EXPANSION)
            seat.keys.move_to_end((bundle.hash, key.id))
            return await worker.infer(bundle, key.id, payload, patience=patience)

    async def probe(self, bundle: Bundle, key: Key, payload: bytes | None, *, patience: float = PATIENCE) -> None:
        """Try a key that nobody has used yet, in a process of its own, with a harmless input if there is one.

        Raises Refused ("damaged") when the library cannot do with it, or dies of it: such a key never meets a worker that serves
        others.
        """
        async with Worker(self._environment, self._cache) as worker:
            await worker.open(bundle)
            try:
                await worker.expand(bundle, key.id, key.path, patience=patience)
                if payload is not None:
                    await worker.infer(bundle, key.id, payload, patience=patience)
            except WorkerFailed:
                raise Refused(Why.DAMAGED, "the evaluation key cannot be used: it is damaged, or of another model") from None

    async def forget(self, model: str, identifier: str) -> None:
        """Take a key that was erased out of every worker's memory, after the jobs that run."""
        for seat in self._seats:
            if (model, identifier) not in seat.keys:
                continue
            bundle, _ = seat.keys.pop((model, identifier))
            if seat.worker is not None and seat.worker.alive:
                with contextlib.suppress(WorkerFailed):
                    await seat.worker.drop(bundle, identifier)

    @contextlib.asynccontextmanager
    async def _seat(self, wanted: tuple[str, str]) -> AsyncIterator[_Seat]:
        async with self._free:
            seat = next((one for one in self._idle if wanted in one.keys), self._idle[0])
            self._idle.remove(seat)
            try:
                yield seat
            finally:
                self._idle.append(seat)

    async def _worker(self, seat: _Seat) -> Worker:
        if seat.worker is None or not seat.worker.alive:
            seat.keys.clear()
            seat.worker = Worker(self._environment, self._cache)
            await seat.worker.start()
        return seat.worker

    async def _make_room(self, seat: _Seat, worker: Worker, needed: int) -> None:
        while seat.keys and seat.memory + needed > self._share:
            (_, identifier), (bundle, _) = seat.keys.popitem(last=False)
            await worker.drop(bundle, identifier)


def _error(answer: Failed) -> FheError:
    match answer.kind:
        case "refused":
            return Refused(answer.why or Why.DAMAGED, answer.text)
        case "bundle":
            return BundleError(answer.text)
        case "unavailable":
            return Unavailable(answer.text)
        case "input":
            return InputError(answer.text)
        case "failed":
            return WorkerFailed(answer.text)
