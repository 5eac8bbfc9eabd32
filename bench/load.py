"""The load: requests over keep-alive connections, from a process of its own.

Responses are looked at no closer than their status and length, so that the client costs less than what it measures;
its own CPU is reported, to show that it is not what bounds the rate.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import uvloop

_LENGTH = b"Content-Length: "
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Job:
    """What to send: complete HTTP requests. With a rate (per second) they are due at fixed times, else at once."""

    host: str
    port: int
    requests: list[bytes]
    connections: int
    rate: float = 0.0


@dataclass
class Outcome:
    """What came of a job. Latencies are seconds from when a request was due, so that no pause of ours hides any."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers of any status."""
        return len(self.latencies) / self.seconds

    def count(self, status: int) -> int:
        return self.statuses[str(status)]


class _Run:
    """The requests that are still to be sent, and what came of the others."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome = Outcome()
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.began = self.loop.time()
        self._next = 0

    def take(self) -> tuple[bytes, float] | None:
        """The next request and when it is due."""
        if self._next == len(self.job.requests):
            return None
        now = self.loop.time()
        due = self.began + self._next / self.job.rate if self.job.rate else now
        self._next += 1
        return self.job.requests[self._next - 1], due

    def answered(self, status: str, latency: float) -> None:
        self.outcome.statuses[status] += 1
        self.outcome.latencies.append(latency)
        if len(self.outcome.latencies) == len(self.job.requests):
            self.outcome.seconds = self.loop.time() - self.began
            self.done.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._due = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.done.done():
            self._run.done.set_exception(exc or ConnectionError("the edge closed a connection"))

    def send_next(self) -> None:
        taken = self._run.take()
        if taken is None:
            return
        request, self._due = taken
        if self._due > self._run.loop.time():
            self._run.loop.call_at(self._due, self._transport.write, request)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(_HEAD_END)
        if head < 0:
            return
        at = self._received.find(_LENGTH) + len(_LENGTH)
        if len(self._received) < head + len(_HEAD_END) + int(self._received[at : self._received.index(b"\r", at)]):
            return
        status, self._received = self._received[9:12].decode(), b""
        self._run.answered(status, self._run.loop.time() - self._due)
        self.send_next()


async def _drive(job: Job) -> Outcome:
    run = _Run(job)
    connections = [
        (await run.loop.create_connection(lambda: _Connection(run), job.host, job.port))[1]
        for _ in range(min(job.connections, len(job.requests)))
    ]
    cpu = time.process_time()
    run.began = run.loop.time()
    for connection in connections:
        connection.send_next()
    await run.done
    run.outcome.cpu_seconds = time.process_time() - cpu
    return run.outcome


def drive(job: Job) -> Outcome:
    """Sends everything and returns when everything has been answered. Blocks; runs an event loop of its own."""
    return uvloop.run(_drive(job))
