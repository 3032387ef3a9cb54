"""One run: a few nodes, one or two rounds, and everything that its seed does to them. The same seed is the same run.

`play` returns what happened, or raises Broken with the story and the command that plays it again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

from mpc.envelope import parse
from mpc.identity import Identity
from mpc.messages import Kind
from mpc.receipt import ReceiptRefused, check_receipt
from mpc.result import Result
from mpc.rounds.events import RELEASED, CancelRound, Released
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.patient import PatientRound
from mpc.study import Study
from mpc.wire import decode, encode
from nodes.ledger import Ledger
from nodes.receipts import assembled
from nodes.store.base import Closed, Step, StoreError
from nodes.transport.base import DeliveryError
from nodes.transport.memory import MemoryNetwork, Parcel
from tests.mpc.nodes import HOSPITAL, patient, study, trust
from tests.simulation import faults
from tests.simulation.disks import Disk, FileDisk, MemoryDisk
from tests.simulation.loop import Clock, VirtualLoop, wait_here
from tests.simulation.node import Node

BASE = 100
PATIENTS = ("alice", "bob", "charlie", "dora", "emil")
_STORY_LINES = 60
_SQLITE_PART = 0.04
_CLOCK_SECONDS = 200.0
"""Clocks are wrong by so much at the most."""
_END_SECONDS = 60.0 + 60.0 + 2 * _CLOCK_SECONDS + 30.0
"""After the faults: a round's deadline, the grace for its receipt, wrong clocks, and retries."""
_MAX_MESSAGE = 1 << 20


class Broken(Exception):
    """An invariant does not hold. The text is the story."""


@dataclass
class Report:
    """What came of one run, or of many."""

    runs: int = 0
    rounds: int = 0
    released: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    story: tuple[str, ...] = ()

    def add(self, other: Report) -> None:
        self.runs += other.runs
        self.rounds += other.rounds
        self.released += other.released
        self.faults += other.faults


class _Network(MemoryNetwork):
    """Asks the run for the fate of each parcel."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._seen: set[Parcel] = set()

    async def post(self, sender: Identity, recipient: Identity, endpoint: str, envelope: bytes) -> Any:
        self._run.later(0, self._dispatch)
        return await super().post(sender, recipient, endpoint, envelope)

    async def _dispatch(self) -> None:
        for parcel in self.waiting:
            if parcel not in self._seen:
                self._seen.add(parcel)
                self._run.later(0, partial(self._carry, parcel))

    async def _carry(self, parcel: Parcel) -> None:
        run, temper, chance = self._run, self._run.temper, self._run.chance
        await asyncio.sleep(chance.uniform(0, temper.slowest if run.faulty else 0.002))
        copy = Parcel(parcel.sender, parcel.recipient, parcel.endpoint, parcel.envelope, parcel.answer)
        try:
            if parcel not in self.waiting:  # its sender has called it back, or is dead: the network may carry it all the same
                if chance.random() < 0.5:
                    run.count("ghost")
                    await self.double(copy)
            elif run.cut(parcel) or run.strikes(temper.lose):
                run.count("lose")
                await asyncio.sleep(chance.uniform(0, temper.slowest))
                if parcel in self.waiting:
                    self.drop(parcel)
            elif run.strikes(temper.lose_answer):
                run.count("lose answer")
                await self.lose_answer(parcel)
            else:
                if run.strikes(temper.corrupt):
                    run.count("corrupt")
                    self.corrupt(parcel, chance.randrange(len(parcel.envelope)), chance.randrange(1, 256))
                await self.deliver(parcel)
            if run.strikes(temper.double):
                run.count("double")
                await asyncio.sleep(chance.choice((0.0, 0.1, 10.0)) * chance.random())
                await self.double(copy)
        except DeliveryError as error:
            self._fail(parcel, error)


class Run:
    """See the module."""

    def __init__(self, seed: int, loop: VirtualLoop, directory: Path | None) -> None:
        self.chance = Random(seed)
        self.loop = loop
        self._nobody = copy_context()
        loop.thread_seconds = lambda: self.chance.random() * self.chance.choice((0.0, 0.002, 0.05))
        self.temper = faults.draw(self.chance)
        self.names = PATIENTS[: self.chance.choice((3, 3, 3, 3, 4, 5))]
        self.bound = 9 * BASE ** len(self.names)
        self.network = _Network(self)
        self.faulty = True
        """Until the faults stop."""
        self.counted: Counter[str] = Counter()
        self.story: list[str] = []
        self.findings: list[str] = []
        self.begun: dict[bytes, Study] = {}
        """Rounds that the hospital has kept."""
        self.keepers: set[tuple[Identity, bytes]] = set()
        """Which node has kept the beginning of which round."""
        self._opening = 0
        self._partitions: list[frozenset[Identity]] = []
        self._errands: set[asyncio.Task[None]] = set()
        self._closed: dict[tuple[Identity, bytes], Closed] = {}
        self._results: dict[bytes, bytes] = {}
        self._kept_envelopes: set[bytes] = set()
        self._sent: dict[tuple[Identity, Identity, bytes, Kind], bytes] = {}
        self._parsed: set[tuple[Identity, bytes]] = set()
        identities = [HOSPITAL, *map(patient, self.names)]
        self.nodes = {one: Node(self, one, _disk(directory, one)) for one in identities}

    # -- the story

    def tell(self, who: str, what: str) -> None:
        self.story.append(f"{self.loop.now:8.3f} {who}: {what}")

    def count(self, fault: str) -> None:
        self.counted[fault] += 1

    def finding(self, what: str) -> None:
        """Something that must never be."""
        self.findings.append(what)
        self.story.append(f"{self.loop.now:8.3f} FOUND {what}")

    # -- chance

    def strikes(self, chance: float) -> bool:
        """Whether a fault of that chance happens now."""
        return self.faulty and chance > 0 and self.chance.random() < chance

    def cut(self, parcel: Parcel) -> bool:
        """Whether a partition lies between the two."""
        return any((parcel.sender in side) != (parcel.recipient in side) for side in self._partitions)

    def later(self, seconds: float, errand: Callable[[], Awaitable[None]]) -> None:
        """Does it then, on nobody's behalf."""

        async def do() -> None:
            if seconds > 0:
                await asyncio.sleep(seconds)
            await errand()

        task = self.loop.create_task(do(), context=self._nobody)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.finding(f"an errand failed: {error!r}")

    # -- the run

    async def play(self) -> Report:
        self.loop.set_exception_handler(lambda _loop, context: self.finding(f"unhandled: {context}"))
        for node in self.nodes.values():
            node.start()
        rounds = self.chance.choice((1, 1, 2))
        for number in range(rounds):
            self._opening += 1
            self.later(self.chance.uniform(0, 2), partial(self._open, number))
        if self.temper.happenings:
            self.later(self.chance.expovariate(1 / self.temper.every), self._happen)
        await asyncio.sleep(self.temper.until)
        self.faulty = False
        self._partitions.clear()
        self.tell("all", "faults stop")
        for node in self.nodes.values():
            node.full = False
            node.set_clock(0.0)
        await self._settle()
        await self._check_end()
        if not self.findings and self.chance.random() < 0.25:
            self.tell("all", "start once more")
            before = dict(self._closed)
            for node in self.nodes.values():
                node.end(0.1)
            await self._settle()
            if self._closed != before:
                self.finding("a restart after the end changed the end")
        if self.findings:
            raise Broken
        released = sum(closed.outcome == RELEASED for (who, _), closed in self._closed.items() if who == HOSPITAL)
        return Report(1, len(self.begun), released, self.counted, tuple(self.story))

    async def _open(self, number: int) -> None:
        minimum = len(self.names) if self.chance.random() < 0.5 else 3
        publish = self.chance.choice(("hospital", "members"))
        asked = study(*self.names, bound=self.bound, minimum=minimum, publish_to=publish)
        await self._try_to_open(asked, number)
        self._opening -= 1

    async def _try_to_open(self, asked: Study, number: int) -> None:
        """The first round must come to be, whatever it takes; the second one while the faults last."""
        hospital = self.nodes[HOSPITAL]
        while self.faulty or not number:
            await asyncio.sleep(self.chance.uniform(0.01, 0.5))
            if hospital.life is None or hospital.driver is None:
                continue
            round_id = self.chance.randbytes(16)
            named = msgspec.structs.replace(asked, id=f"study-{number}")
            try:
                await hospital.open(named, round_id)
            except StoreError:
                self.tell("hospital", "could not open a round")
            except asyncio.CancelledError:
                if self.begun.get(round_id) is not None:
                    return
            else:
                return

    async def _happen(self) -> None:
        if not self.faulty:
            return
        what = self.chance.choice(self.temper.happenings)
        node = self.chance.choice(list(self.nodes.values()))
        seconds = self.chance.uniform(0.1, min(self.temper.until, 20.0) / 2)
        self.count(what)
        match what:
            case "crash" if node.life is not None:
                node.crash("somewhere")
            case "stop":
                node.stop(self.chance.uniform(0, 3))
            case "partition":
                side = frozenset(one for one in self.nodes if self.chance.random() < 0.5)
                self.tell("network", f"parts {','.join(sorted(one.name for one in side))} from the others for {seconds:.1f} s")
                self._partitions.append(side)

                async def heal() -> None:
                    if side in self._partitions:
                        self._partitions.remove(side)

                self.later(seconds, heal)
            case "full disk":
                node.full = True
                node.tell(f"disk full for {seconds:.1f} s")

                async def free() -> None:
                    node.full = False

                self.later(seconds, free)
            case "clock":
                node.set_clock(self.chance.uniform(-_CLOCK_SECONDS, _CLOCK_SECONDS))
                node.tell(f"clock wrong by {node.offset:.0f} s")
            case "restore":
                if self.chance.random() < 0.5:
                    node.disk.back_up()
                elif node.life is not None and node.disk.restore():
                    node.tell("store restored from a copy")
                    node.restored = True
                    node.end(0.5)
            case "cancel":
                driver = self.nodes[HOSPITAL].driver
                if driver is not None and self.begun:
                    self.tell(HOSPITAL.name, "a person cancels")
                    driver.tell(self.chance.choice(list(self.begun)), CancelRound())
        self.later(self.chance.expovariate(1 / self.temper.every), self._happen)

    async def _settle(self) -> None:
        """Waits until nothing is open and nothing on its way."""
        limit = self.loop.now + _END_SECONDS
        while self.loop.now < limit and not self.findings:
            await asyncio.sleep(3.0)
            if await self._quiet():
                return
        if not self.findings:
            self.finding(f"not quiet after {_END_SECONDS:.0f} s: {await self._unquiet()}")

    async def _quiet(self) -> bool:
        return not await self._unquiet()

    async def _unquiet(self) -> list[str]:
        found = ["a round is still to be opened"] * self._opening
        for node in self.nodes.values():
            if node.life is None or node.driver is None:
                found.append(f"{node.identity.name} is down")
            elif node.driver._pump_task is None:
                found.append(f"{node.identity.name} is starting")
            else:
                found += [
                    f"{node.identity.name} has {one.round_id.hex()[:4]} open" for one in await node.disk.store.open_rounds()
                ]
                if len(node.driver.rounds):
                    found.append(f"{node.identity.name} has a machine")
                keys = [one for one in node.disk.keys.rounds() if (node.identity, one) in self.keepers]
                found += [f"{node.identity.name} has a key of {one.hex()[:4]}" for one in keys]
                if node.driver.outbox.depth():
                    found.append(f"{node.identity.name} sends")
        return found

    # -- what must hold

    def sent(self, node: Node, recipient: Identity, envelope: bytes) -> None:
        """A node gives an envelope to the network."""
        if (recipient, envelope) in self._parsed:
            return
        self._parsed.add((recipient, envelope))
        header = parse(envelope, _MAX_MESSAGE).header
        if envelope not in self._kept_envelopes:
            self.finding(f"{node.identity.name} sent what it had not kept: {header.kind.purpose}")
        other = self._sent.setdefault((node.identity, recipient, header.round, header.kind), envelope)
        if other != envelope and (header.kind is Kind.PARTIAL_SUM or not self._was_restored()):
            self.finding(f"{node.identity.name} sent two different messages of kind {header.kind.purpose}")

    def kept(self, node: Node, step: Step) -> None:
        """A step is on the disk."""
        self._kept_envelopes.update(posted.envelope for posted in step.posted)
        if node.identity == HOSPITAL and step.begun is not None:
            machine = node.machines[step.round_id]
            assert isinstance(machine, HospitalRound)
            self.begun[step.round_id] = machine.study
            node.tell(f"round {step.round_id.hex()[:4]} begins")
        if step.begun is not None:
            self.keepers.add((node.identity, step.round_id))
        if step.closed is None:
            return
        earlier = self._closed.setdefault((node.identity, step.round_id), step.closed)
        if earlier != step.closed and not self._was_restored():
            self.finding(f"{node.identity.name} ended a round twice")
        if (step.receipt is not None) != (step.closed.outcome == RELEASED):
            self.finding(f"{node.identity.name}: a result and its receipt are not kept together")
        if step.closed.result:
            self._check_result(node, step.round_id, step.closed.result)

    def released(self, node: Node, round_id: bytes, effect: Released) -> None:
        """A result is shown to people."""
        self._check_result(node, round_id, encode(effect.result))

    def _check_result(self, node: Node, round_id: bytes, raw: bytes) -> None:
        if self._results.setdefault(round_id, raw) != raw:
            self.finding(f"{node.identity.name}: the round has two results")
        machine = node.machines[round_id]
        assert isinstance(machine, HospitalRound | PatientRound)
        result = decode(raw, Result)
        total = sum(self.value(machine.study.id, member.identity) for member in machine.members)
        if result.members != len(machine.members) or result.plain()["value"]["sum"] != total:
            self.finding(f"{node.identity.name}: the sum is not that of the roster")

    def value(self, study_id: str, who: Identity) -> int:
        """A power of BASE, times a number of the round's own: what is missing, doubled or another round's shows."""
        power: int = BASE ** self.names.index(who.name)
        return (1 + int(study_id.rpartition("-")[2])) * power

    async def _check_end(self) -> None:
        for node in self.nodes.values():
            name = node.identity.name
            if node.driver is not None and (node.driver._pump_task is None or node.driver._pump_task.done()):
                self.finding(f"{name}: the pump has stopped")
        for round_id, asked in self.begun.items():
            ends = {node.name: closed for (node, of_round), closed in self._closed.items() if of_round == round_id}
            if HOSPITAL.name not in ends and not self._was_restored():
                self.finding(f"round {round_id.hex()[:4]} has no end at the hospital")
            if not self.temper.gentle:
                continue
            for name in (HOSPITAL.name, *self.names):
                outcome = ends[name].outcome if name in ends else "nothing"
                if outcome != RELEASED:
                    code = ends[name].code if name in ends else ""
                    self.finding(f"round {round_id.hex()[:4]} {outcome} {code} at {name} though the faults stopped early")
            if decode(self._results[round_id], Result).members != len(asked.members):
                self.finding(f"round {round_id.hex()[:4]} lacks members though the faults stopped early")
        await self._check_receipts()
        await self._check_guards()

    async def _check_guards(self) -> None:
        """What a patient has given lies over one roster, or over smaller ones where there is no total of the larger."""
        for name in self.names:
            node = self.nodes[patient(name)]
            ledger = Ledger()
            ledger.load(await node.disk.store.ledger())
            given = ledger.contributions("value")
            for before, after in pairwise(given):
                if after.members != before.members and (before.released or not after.members < before.members):
                    self.finding(f"{name} gave over two rosters")
            sent = sum(who == node.identity and kind is Kind.PARTIAL_SUM for who, _, _, kind in self._sent)
            if sent > len(given) and not node.restored:
                self.finding(f"{name} gave what its ledger does not have")

    async def _check_receipts(self) -> None:
        """Of one round there is one statement, whoever has it. The hospital's lacks a countersignature where faults went on."""
        stated: dict[bytes, bytes] = {}
        for node in self.nodes.values():
            for line in await node.disk.store.receipts(10):
                kept = await node.disk.store.find_receipt(line.round_id)
                assert kept is not None, "nobody erases it"
                try:
                    checked = check_receipt(assembled(kept), trust())
                except ReceiptRefused as error:
                    self.finding(f"{node.identity.name}: a receipt does not hold: {error}")
                    continue
                signed = {member.credential.identity for member in checked.members if member.countersigned}
                if node.identity != HOSPITAL and signed != {node.identity}:
                    self.finding(f"{node.identity.name} keeps a receipt that is not its own")
                if self.temper.gentle and node.identity == HOSPITAL and len(signed) < len(checked.members):
                    self.finding("a countersignature is missing though the faults stopped early")
                if stated.setdefault(line.round_id, checked.digest) != checked.digest:
                    self.finding(f"{node.identity.name}: the round has two receipts")

    def _was_restored(self) -> bool:
        return any(node.restored for node in self.nodes.values())


def _disk(directory: Path | None, identity: Identity) -> Disk:
    return MemoryDisk() if directory is None else FileDisk(directory, identity.name)


def play(seed: int) -> Report:
    """Plays one run. Raises Broken."""
    loop = VirtualLoop(Random(seed))
    directory = Path(tempfile.mkdtemp(prefix="co")) if Random(~seed).random() < _SQLITE_PART else None
    run = Run(seed, loop, directory)
    try:
        with (
            mock.patch("nodes.driver.time", Clock),
            mock.patch("nodes.outbox.time", Clock),
            mock.patch("nodes.outbox.random", run.chance),
            mock.patch("nodes.store.database.asyncio", SimpleNamespace(wrap_future=wait_here)),
        ):
            return loop.run_until_complete(run.play())
    except Exception as error:
        raise Broken(_explain(seed, run, error)) from error
    finally:
        _tear_down(loop, run, directory)


def play_rounds(first: int, rounds: int) -> Report:
    """Plays the runs of `first` and the seeds after it until there were so many rounds. Raises Broken."""
    total, seed = Report(), first
    while total.rounds < rounds:
        total.add(play(seed))
        seed += 1
    return total


def _tear_down(loop: VirtualLoop, run: Run, directory: Path | None) -> None:
    loop.set_exception_handler(lambda _loop, _context: None)
    for node in run.nodes.values():
        if node.life is not None:
            node.life.end()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    if directory is not None:
        with mock.patch("nodes.store.database.asyncio", SimpleNamespace(wrap_future=wait_here)):
            for node in run.nodes.values():
                loop.run_until_complete(node.disk.close())
        shutil.rmtree(directory)
    loop.close()


def _explain(seed: int, run: Run, error: Exception) -> str:
    lines = [f"seed {seed}: {'; '.join(run.findings) or repr(error)}", f"temper: {run.temper}"]
    skipped = len(run.story) - _STORY_LINES
    lines += [f"... {skipped} lines before these"] * (skipped > 0) + run.story[-_STORY_LINES:]
    for node in run.nodes.values():
        for round_id, machine in node.machines.items():
            node.stories[round_id] = machine.story
        for round_id, story in node.stories.items():
            lines.append(f"{node.identity.name} {round_id.hex()[:4]}: {' > '.join(story)}")
    return "\n".join([*lines, f"play it again: python -m tests.simulation {seed}"])
