"""A network in memory whose every message waits for a test to decide its fate: no sockets, no clock, no chance.

A test reads like this:

    network = MemoryNetwork()
    hospital, alice = network.transport(HOSPITAL), network.transport(ALICE)
    ...
    parcel = await network.arrival()       # somebody has sent something
    network.corrupt(parcel)                # or drop, double, lose_answer; or leave it and deliver a later one first
    await network.deliver(parcel)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mpc.errors import Answer
from mpc.identity import Identity
from nodes.transport.base import DeliveryError, Receive


@dataclass(slots=True, eq=False)
class Parcel:
    """One message on its way. It stays in `MemoryNetwork.waiting` until it is delivered or dropped."""

    sender: Identity
    recipient: Identity
    endpoint: str
    envelope: bytes = field(repr=False)
    answer: asyncio.Future[Answer] = field(repr=False)


class MemoryNetwork:
    """All nodes of a test. `waiting` holds what was sent and not yet decided, oldest first."""

    def __init__(self) -> None:
        self.waiting: list[Parcel] = []
        self._listening: dict[Identity, Receive] = {}
        self._posted = asyncio.Event()

    def transport(self, identity: Identity) -> MemoryTransport:
        """The way of `identity` to the others."""
        return MemoryTransport(self, identity)

    async def arrival(self) -> Parcel:
        """The oldest parcel that waits, as soon as there is one."""
        while not self.waiting:
            self._posted.clear()
            await self._posted.wait()
        return self.waiting[0]

    async def deliver(self, parcel: Parcel) -> Answer:
        """Gives the parcel to its recipient and the recipient's answer to its sender.

        Raises DeliveryError, as the sender's `send` does, when the recipient does not listen, and whatever `receive`
        raises, of which the sender hears only that it failed.
        """
        self.waiting.remove(parcel)
        try:
            answer = await self._hand_over(parcel)
        except DeliveryError as error:
            self._fail(parcel, error)
            raise
        except Exception:
            self._fail(parcel, DeliveryError("answer", f"{parcel.recipient} failed"))
            raise
        if not parcel.answer.done():
            parcel.answer.set_result(answer)
        return answer

    async def double(self, parcel: Parcel) -> Answer:
        """Delivers a copy whose answer nobody hears; the parcel itself still waits."""
        return await self._hand_over(parcel)

    async def lose_answer(self, parcel: Parcel) -> Answer:
        """Delivers the parcel, but its sender hears only that no answer came."""
        self.waiting.remove(parcel)
        answer = await self._hand_over(parcel)
        self._fail(parcel, DeliveryError("timeout", f"no answer from {parcel.recipient}"))
        return answer

    def drop(self, parcel: Parcel) -> None:
        """The parcel never arrives; its sender hears that no answer came."""
        self.waiting.remove(parcel)
        self._fail(parcel, DeliveryError("timeout", f"no answer from {parcel.recipient}"))

    def corrupt(self, parcel: Parcel, position: int = -1, mask: int = 1) -> None:
        """Flips the bits of `mask` (1 to 255) in the byte at `position`; the parcel still waits."""
        envelope = bytearray(parcel.envelope)
        envelope[position] ^= mask
        parcel.envelope = bytes(envelope)

    def listen(self, identity: Identity, receive: Receive | None) -> None:
        """`identity` now takes messages with `receive`, or none at all."""
        if receive is None:
            self._listening.pop(identity, None)
        else:
            self._listening[identity] = receive

    async def post(self, sender: Identity, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """Adds a parcel and waits for its fate."""
        parcel = Parcel(sender, recipient, endpoint, envelope, asyncio.get_running_loop().create_future())
        self.waiting.append(parcel)
        self._posted.set()
        try:
            return await parcel.answer
        finally:
            if parcel in self.waiting:  # the sender was cancelled
                self.waiting.remove(parcel)

    async def _hand_over(self, parcel: Parcel) -> Answer:
        receive = self._listening.get(parcel.recipient)
        if receive is None:
            raise DeliveryError("refused", f"{parcel.recipient} does not listen")
        return await receive(parcel.envelope, parcel.sender)

    def _fail(self, parcel: Parcel, error: DeliveryError) -> None:
        if not parcel.answer.done():
            parcel.answer.set_exception(error)


class MemoryTransport:
    """One node's end of a `MemoryNetwork`; see `nodes.transport.base.Transport`."""

    def __init__(self, network: MemoryNetwork, identity: Identity) -> None:
        self._network = network
        self._identity = identity

    async def start(self, receive: Receive) -> None:
        """Takes messages from now on."""
        self._network.listen(self._identity, receive)

    async def send(self, recipient: Identity, endpoint: str, envelope: bytes) -> Answer:
        """Returns, or raises, when the test has decided."""
        return await self._network.post(self._identity, recipient, endpoint, envelope)

    async def stop(self) -> None:
        """Takes no more messages; what is sent here from now on is refused."""
        self._network.listen(self._identity, None)
