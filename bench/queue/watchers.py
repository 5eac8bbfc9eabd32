"""People who follow their place: server-sent events over one connection each, thousands to a process.

A watcher looks at two things of a message only: when it came, and how many people wait, which tells one digest from
the next. So the watching costs less than what is watched.
"""

import asyncio
import multiprocessing
import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Self, cast

import uvloop

from bench import usage

_TOTAL = b'"total_waiting":'
_GOOD = b"HTTP/1.1 200"
# Connections being made at one time by one process: who watches arrives over a while.
_ARRIVING = 32
_PER_PROCESS = 10_000
_CONNECT_WITHIN = 60.0
_ANSWER_WITHIN = 300.0


@dataclass(frozen=True)
class Job:
    """Whom a process plays: complete HTTP requests, one for each watcher."""

    host: str
    port: int
    requests: Sequence[bytes]


@dataclass
class Seen:
    """Every message that came, in order of coming: the time (seconds since the epoch), and people waiting."""

    # In quotes: generic for mypy only.
    times: "array[float]" = field(default_factory=lambda: array("d"))
    totals: "array[int]" = field(default_factory=lambda: array("q"))
    lost: int = 0
    """Connections that the edge ended."""

    def add(self, other: "Seen") -> None:
        self.times.extend(other.times)
        self.totals.extend(other.totals)
        self.lost += other.lost


class _Watcher(asyncio.Protocol):
    __slots__ = ("_request", "_seen", "_transport", "begun")

    def __init__(self, request: bytes, seen: "_Audience") -> None:
        self._request = request
        self._seen = seen
        self.begun: asyncio.Future[None] = seen.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen.lost += 1
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionError("the edge closed a connection"))

    def data_received(self, data: bytes) -> None:
        if not self.begun.done():
            self._begin(data)
        at = data.rfind(_TOTAL)
        if at >= 0:
            self._seen.saw(data, at + len(_TOTAL))

    def _begin(self, data: bytes) -> None:
        if data.startswith(_GOOD):
            self.begun.set_result(None)
        else:
            self.begun.set_exception(ConnectionError(data[:500].decode(errors="replace")))


class _Audience:
    """The watchers of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lost = 0
        self.seen = Seen()

    def saw(self, data: bytes, at: int) -> None:
        end = data.find(b",", at)
        if end > 0:
            self.seen.times.append(time.time())
            self.seen.totals.append(int(data[at:end]))

    def take(self) -> Seen:
        """What was seen since the last time."""
        seen, self.seen = self.seen, Seen()
        seen.lost, self.lost = self.lost, 0
        return seen

    async def arrive(self, job: Job) -> None:
        waiting = iter(job.requests)

        async def usher() -> None:
            for request in waiting:
                async with asyncio.timeout(_CONNECT_WITHIN):
                    made = self.loop.create_connection(lambda r=request: _Watcher(r, self), job.host, job.port)  # type: ignore[misc] # a lambda with a default
                    await (await made)[1].begun

        await asyncio.gather(*(usher() for _ in range(_ARRIVING)))


def _play(job: Job, orders: Connection) -> None:
    """The life of a process: everyone arrives; at each order what was seen is handed over, until orders end."""
    uvloop.run(_obey(job, orders))


async def _obey(job: Job, orders: Connection) -> None:
    loop = asyncio.get_running_loop()
    audience = _Audience(loop)
    done = loop.create_future()

    def on_order() -> None:
        try:
            orders.recv()
            orders.send(audience.take())
        except (EOFError, OSError):  # whoever gave orders has gone, and so do we
            loop.remove_reader(orders.fileno())
            done.set_result(None)

    try:
        await audience.arrive(job)
    except (OSError, TimeoutError) as error:
        orders.send(error)
        return
    orders.send(audience.take())
    loop.add_reader(orders.fileno(), on_order)
    # The loop makes it non-blocking, which multiprocessing cannot take. It is read only when there is an order.
    os.set_blocking(orders.fileno(), True)
    await done


class Audience:
    """Watchers in processes of their own. They come in `gather`, and go at the end of the block."""

    def __init__(self) -> None:
        self._orders: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self.number = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for orders in self._orders:
            orders.close()
        for process in self._processes:
            await asyncio.to_thread(process.join, 10)
            process.kill()

    async def gather(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        """Has so many more follow their places; returns when each was told theirs once."""
        parts = -(-len(requests) // _PER_PROCESS)
        new = [self._start(Job(host, port, requests[at::parts])) for at in range(parts)]
        for orders in new:
            await asyncio.to_thread(_hear, orders)
        self.number += len(requests)

    def _start(self, job: Job) -> Connection:
        spawning = multiprocessing.get_context("spawn")
        ours, theirs = spawning.Pipe()
        process = spawning.Process(target=_play, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        self._orders.append(ours)
        self._processes.append(process)
        return ours

    def cpu_seconds(self) -> float:
        """What watching has used so far."""
        return sum(usage.cpu_of(process.pid) for process in self._processes if process.pid)

    async def seen(self) -> Seen:
        """What all of them were told since they were asked last."""
        seen = Seen()
        for orders in self._orders:
            orders.send("tell")
        for orders in self._orders:
            seen.add(await asyncio.to_thread(_hear, orders))
        return seen


def _hear(orders: Connection) -> Seen:
    """What a process answers. Raises what it has failed with; EOFError or OSError when either side has gone."""
    deadline = time.monotonic() + _ANSWER_WITHIN
    while not orders.poll(1):  # in short steps, since a thread that waits would keep an interrupted run from ending
        if time.monotonic() > deadline:
            raise TimeoutError("a process of watchers does not answer")
    answer: Seen | Exception = orders.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer
