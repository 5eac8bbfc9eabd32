"""What each store does alone, in the same run: what a batch of reservations costs where it cannot be avoided."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

from boxoffice.inventory.v1 import booking_events_pb2 as events_pb

from bench.shop import Shop
from services.common.eventlog import open_event_log
from services.common.mysql import open_database
from services.common.redis import open_redis
from services.inventory.domain import Booking, BookingState, Money
from services.inventory.holds import HoldRequest, Holds, Snapshot
from services.inventory.ledger import Ledger
from services.inventory.records import Block

BATCH = 256
_TOPIC = "bench.scratch"
# No such event is ever sold: the bitmap and the records of it are ours.
_SCRATCH_EVENT = (1 << 32) - 1
_PRICE = 100_000
_HASH = hashlib.sha256(b"bench").digest()


async def per_second(number: int, send: Callable[[range], Awaitable[object]], at_once: int) -> float:
    """How many items a second go through `send`, in batches, with so many batches under way."""
    batches: Iterator[range] = iter([range(at, min(at + BATCH, number)) for at in range(0, number, BATCH)])

    async def sender() -> None:
        for batch in batches:
            await send(batch)

    began = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(at_once)))
    return number / (time.perf_counter() - began)


async def holds(shop: Shop, number: int) -> float:
    """Holds a second: hold.lua, one pipeline per batch, as inventory sends it."""

    async def snapshot(_event_id: int) -> Snapshot:
        return Snapshot(number, [])

    async with open_redis(shop.redis_url) as redis:
        holding = Holds(redis, snapshot)
        await holding.ensure_ready(_SCRATCH_EVENT)

        async def send(batch: range) -> None:
            for outcome in await holding.hold_many([_hold(at) for at in batch]):
                if isinstance(outcome, Exception):
                    raise outcome

        try:
            return await per_second(number, send, at_once=2)
        finally:
            keys = [key async for key in redis.scan_iter(f"event:{{{_SCRATCH_EVENT}}}:*")]
            await redis.delete(*keys)


def _hold(at: int) -> HoldRequest:
    block = Block((at,), _PRICE)
    return HoldRequest(f"bench-{at}", _SCRATCH_EVENT, at + 1, _HASH, limit=4, blocks=(block,))


async def appends(shop: Shop, number: int) -> float:
    """Bookings a second into the event log: one record per batch, acknowledged."""
    record = events_pb.ReserveCommands(commands=[_command(at) for at in range(BATCH)]).SerializeToString()
    async with open_event_log(shop.eventlog_url) as log:
        await log.create_topics({_TOPIC: 1})
        async with log.writer() as writer:
            return await per_second(number, lambda _: writer.append(_TOPIC, "1", record), at_once=2)


def _command(at: int) -> events_pb.ReserveCommand:
    command = events_pb.ReserveCommand(
        booking_id=f"bench-{at:032}", event_id=1, user_id=at + 1, seat_indexes=[at], request_hash=_HASH
    )
    command.hold_time.GetCurrentTime()
    command.expire_time.GetCurrentTime()
    return command


async def commits(shop: Shop, number: int) -> float:
    """Bookings a second into MySQL: the worker's transaction, one batch after the other."""
    event_id = await shop.event(number)
    async with open_database(shop.mysql_url) as db:
        ledger = Ledger(db)

        async def send(batch: range) -> None:
            decided = await ledger.commit_reservations([_booking(event_id, at) for at in batch])
            if any(each.state is not BookingState.RESERVED for each in decided):
                raise RuntimeError("a booking of a free seat was refused")

        return await per_second(number, send, at_once=1)


def _booking(event_id: int, at: int) -> Booking:
    now = datetime.now(tz=UTC)
    return Booking(
        booking_id=f"{event_id:x}-{at:026}",
        event_id=event_id,
        user_id=at + 1,
        state=BookingState.PENDING,
        seat_indexes=(at,),
        amount=Money(_PRICE),
        request_hash=_HASH,
        expire_time=now + timedelta(minutes=10),
        create_time=now,
    )
