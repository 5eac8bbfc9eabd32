"""A subscriber of digests, as an edge process is one: how large they are, and what was told when."""

import asyncio
import itertools
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc

from bench.queue.joins import RefusedError
from bench.queue.venue import address_of
from bench.queue.watchers import Seen


@dataclass(frozen=True)
class Told:
    """One digest: its own time and when it came, in seconds since the epoch; people waiting; its size in bytes."""

    time: float
    came: float
    total: int
    size: int


@dataclass(frozen=True)
class Spread:
    """Milliseconds."""

    p50: float
    p99: float
    most: float
    number: int


def spread(seconds: Sequence[float]) -> Spread:
    """Of at least two durations."""
    cuts = statistics.quantiles(seconds, n=100)
    p50, p99, most = (round(each * 1000, 1) for each in (cuts[49], cuts[98], max(seconds)))
    return Spread(p50, p99, most, len(seconds))


class Subscriber:
    """Keeps every digest of one line."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.came = asyncio.Event()

    async def run(self, target: str, event_id: int) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            stub: rpc.QueueServiceAsyncStub = rpc.QueueServiceStub(channel)
            async for digest in stub.WatchDigest(pb.WatchDigestRequest(event_id=event_id)):
                moment = digest.time.ToNanoseconds() / 1e9
                self.told.append(Told(moment, time.time(), digest.total_waiting, digest.ByteSize()))
                self.came.set()

    async def next(self) -> Told:
        """The next one that comes."""
        self.came.clear()
        await self.came.wait()
        return self.told[-1]


@asynccontextmanager
async def subscribed(target: str, event_id: int) -> AsyncIterator[Subscriber]:
    """Follows the digests of a line while the block runs."""
    subscriber = Subscriber()
    task = asyncio.create_task(subscriber.run(target, event_id))
    try:
        first = asyncio.create_task(subscriber.came.wait())
        await asyncio.wait([task, first], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            first.cancel()
            task.result()
        yield subscriber
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def lateness(told: Sequence[Told], seen: Seen) -> list[float]:
    """Seconds from the time of a digest to each message that was made from it.

    A message belongs to the digest with the same number of people waiting, which is another one in each digest while
    people are called. Others are of places that were asked for one by one, and are left out.
    """
    times = {each.total: each.time for each in reversed(told)}
    return [
        came - times[total]
        for came, total in zip(seen.times, seen.totals, strict=True)
        if total in times and came >= times[total]
    ]


def freshness(told: Sequence[Told], seen: Seen, joined: Sequence[float], most: int = 200_000) -> list[float]:
    """Seconds from a change of the line to each message that shows it: from a join to the first digest that counts it.

    `joined` holds the times of joining, on Redis' clock, while nothing else happened in the line.
    """
    news = {
        new.total: joined[bisect_right(joined, old.time) : bisect_right(joined, new.time)]
        for old, new in itertools.pairwise(told)
    }
    step = 1 + sum(len(news.get(total, ())) for total in seen.totals) // most
    pairs = ((came, each) for came, total in zip(seen.times, seen.totals, strict=True) for each in news.get(total, ()))
    return [came - each for at, (came, each) in enumerate(pairs) if at % step == 0]


async def trickle(target: str, event_id: int, first: int, per_second: float, seconds: float) -> list[float]:
    """People join one by one at an even rate; answers their times of joining, on Redis' clock."""
    joined: list[float] = []
    ends = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.QueueServiceAsyncStub = rpc.QueueServiceStub(channel)
        while time.monotonic() < ends:
            user = first + len(joined)
            item = pb.BatchJoinQueueItem(
                request=pb.JoinQueueRequest(event_id=event_id), user_id=user, client_address=address_of(user)
            )
            answer = (await stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=[item]))).results[0]
            if answer.HasField("error"):
                raise RefusedError(str(answer.error))
            joined.append(answer.response.place.join_time.ToNanoseconds() / 1e9)
            await asyncio.sleep(1 / per_second)
    return joined


def since(told: Sequence[Told], moment: float) -> Sequence[Told]:
    """The digests from a time on."""
    return told[bisect_left([each.time for each in told], moment) :]
