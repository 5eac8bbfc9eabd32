"""Loads that fill a line: batches of joins as the edge sends them, the same number of ZADDs, and joins through REST.

All functions that drive a load block, and are meant for a process of their own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import uvloop
from boxoffice.queue.v1 import queue_service_pb2 as pb

from bench.queue.venue import Account, address_of
from services.common.redis import open_redis

BATCH = 256
_UNDER_WAY = 2
_Batch = TypeVar("_Batch")
_METHOD = "/boxoffice.queue.v1.QueueService/BatchJoinQueue"


@dataclass(frozen=True)
class Crowd:
    """Accounts with consecutive numbers."""

    first: int
    number: int

    def batches(self) -> Iterator[range]:
        end = self.first + self.number
        return iter([range(at, min(at + BATCH, end)) for at in range(self.first, end, BATCH)])


@dataclass(frozen=True)
class Outcome:
    """How long it took, and what the load itself used of the machine."""

    number: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.number / self.seconds


class RefusedError(Exception):
    """Somebody was not let into the line."""


def join(target: str, event_id: int, crowd: Crowd) -> Outcome:
    """Everyone joins through BatchJoinQueue. Raises RefusedError when anybody was refused."""
    batches = [_batch(event_id, users) for users in crowd.batches()]
    return uvloop.run(_join(target, batches, crowd.number))


def _batch(event_id: int, users: range) -> bytes:
    request = pb.JoinQueueRequest(event_id=event_id)
    items = [pb.BatchJoinQueueItem(request=request, user_id=user, client_address=address_of(user)) for user in users]
    return pb.BatchJoinQueueRequest(items=items).SerializeToString()


async def _join(target: str, batches: list[bytes], number: int) -> Outcome:
    async with grpc.aio.insecure_channel(target) as channel:
        # Requests are made beforehand, and not timed.
        call: Any = channel.unary_unary(_METHOD, response_deserializer=pb.BatchJoinQueueResponse.FromString)

        async def send(batch: bytes) -> None:
            answer = await call(batch, timeout=60, wait_for_ready=True)
            refused = [result.error for result in answer.results if result.HasField("error")]
            if refused:
                raise RefusedError(f"{len(refused)} of a batch were refused, the first with {refused[0]}")

        return await _timed(send, iter(batches), number)


async def _timed(send: Callable[[_Batch], Awaitable[None]], batches: Iterator[_Batch], number: int) -> Outcome:
    async def sender() -> None:
        for batch in batches:
            await send(batch)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(sender() for _ in range(_UNDER_WAY)))
    return Outcome(number, time.perf_counter() - began, time.process_time() - cpu)


def add(redis_url: str, key: str, crowd: Crowd) -> Outcome:
    """The ceiling: the same people into a sorted set, in pipelines of the same size, from Python."""
    return uvloop.run(_add(redis_url, key, crowd))


async def _add(redis_url: str, key: str, crowd: Crowd) -> Outcome:
    async with open_redis(redis_url) as redis:

        async def send(users: range) -> None:
            score = time.time_ns() // 1000
            async with redis.pipeline(transaction=False) as pipe:
                for user in users:
                    pipe.zadd(key, {str(user): score})
                await pipe.execute()

        return await _timed(send, crowd.batches(), crowd.number)


def requests(line: str, host: str, accounts: Sequence[Account], body: bytes = b"{}") -> list[bytes]:
    """One HTTP request of each account; the same bytes but for the first line, whatever is asked for."""
    return [
        (
            f"{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {account.token}\r\n"
            f"X-Forwarded-For: {address_of(account.user_id)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        + body
        for account in accounts
    ]
