"""Hosts that are network namespaces, and the network between them: one TUN device in each, and a thread that carries packets.

The thread delays, loses, doubles and cuts as it is told, by a seed; the kernel's own TCP has to cope.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA  # ioctl of linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000  # setns(2)
_DEVICE = "net0"
_MTU = 1500
_NETWORK = "10.213.77"
_numbers = count()


@dataclass
class Weather:
    """What becomes of packets. Times are in seconds, the rest are probabilities."""

    delay: float = 0.03
    jitter: float = 0.01
    loss: float = 0.05
    doubled: float = 0.02


@dataclass
class Network:
    """The hosts by name, and the way between them."""

    hosts: Sequence[str]
    weather: Weather
    seed: int = 1
    carried: int = 0
    lost: int = 0
    doubled: int = 0
    _tuns: dict[str, int] = field(default_factory=dict)
    _cut: set[frozenset[str]] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._tag = f"co{os.getpid()}-{next(_numbers)}"

    def address(self, host: str) -> str:
        """Its IPv4 address."""
        return f"{_NETWORK}.{1 + self.hosts.index(host)}"

    def namespace(self, host: str) -> str:
        """As `ip netns` knows it."""
        return f"{self._tag}-{self.hosts.index(host)}"

    def cut(self, host: str, *others: str) -> None:
        """Nothing passes between `host` and these, or any other without `others`, from now on."""
        self._cut |= {frozenset({host, other}) for other in others or self.hosts if other != host}

    def heal(self) -> None:
        """Everything passes again."""
        self._cut = set()

    @contextmanager
    def up(self) -> Iterator[None]:
        """The namespaces exist, and packets are carried, inside; nothing is left behind."""
        with ExitStack() as stack:
            for host in self.hosts:
                stack.callback(_ip, "netns", "delete", self.namespace(host), check=False)
                _ip("netns", "add", self.namespace(host))
                self._tuns[host] = _in_namespace(self.namespace(host), _open_tun)
                stack.callback(os.close, self._tuns[host])
                inside = ("-n", self.namespace(host))
                _ip(*inside, "link", "set", "lo", "up")
                _ip(*inside, "address", "add", f"{self.address(host)}/24", "dev", _DEVICE)
                _ip(*inside, "link", "set", _DEVICE, "up", "mtu", str(_MTU))
            carrier = threading.Thread(target=self._carry, name="network")
            carrier.start()
            stack.callback(carrier.join)
            stack.callback(self._stop.set)
            yield

    def _carry(self) -> None:
        random = Random(self.seed)
        by_address = {bytes(map(int, self.address(host).split("."))): host for host in self.hosts}
        due: list[tuple[float, int, int, bytes]] = []
        order = count()
        with selectors.DefaultSelector() as selector:
            for host, tun in self._tuns.items():
                selector.register(tun, selectors.EVENT_READ, host)
            while not self._stop.is_set():
                wait = due[0][0] - time.monotonic() if due else 0.05
                for key, _ in selector.select(max(0.0, min(0.05, wait))):
                    packet = os.read(key.fd, _MTU + 100)
                    target = by_address.get(packet[16:20]) if packet[0] >> 4 == 4 else None  # RFC 791: destination address
                    if target is None or frozenset({key.data, target}) in self._cut:
                        continue
                    for at in self._fates(random):
                        heapq.heappush(due, (at, next(order), self._tuns[target], packet))
                while due and due[0][0] <= time.monotonic():
                    _, _, tun, packet = heapq.heappop(due)
                    os.write(tun, packet)

    def _fates(self, random: Random) -> list[float]:
        """When copies of a packet arrive."""
        self.carried += 1
        if random.random() < self.weather.loss:
            self.lost += 1
            return []
        copies = 1 + (random.random() < self.weather.doubled)
        self.doubled += copies - 1
        return [
            time.monotonic() + self.weather.delay + random.uniform(-self.weather.jitter, self.weather.jitter)
            for _ in range(copies)
        ]


def why_not() -> str:
    """Why this machine cannot have such a network; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    if shutil.which("ip") is None:
        return "the program ip is not installed (Debian: iproute2)"
    name = f"co{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        os.close(_in_namespace(name, _open_tun))
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this kernel or container allows no network namespaces: {error}"
    finally:
        _ip("netns", "delete", name, check=False)
    return ""


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, timeout=20)


def _in_namespace(name: str, act: Callable[[], int]) -> int:
    """What `act` gives in that namespace: a thread has a namespace of its own, and this one ends afterwards."""
    results: list[int | OSError] = []

    def enter() -> None:
        try:
            with Path("/run/netns", name).open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(act())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    [result] = results
    if isinstance(result, OSError):
        raise result
    return result


def _open_tun() -> int:
    tun = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(tun)
        raise
    return tun
