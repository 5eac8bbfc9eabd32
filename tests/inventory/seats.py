"""Holds over a Redis of one's own, and short ways to ask them for seats."""

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.common.lua import Script
from services.common.redis import open_redis
from services.inventory import holds as module
from services.inventory.domain import Booking, BookingState, Money, booking_id_for
from services.inventory.holds import HoldOutcome, HoldRequest, Holds, Snapshot
from services.inventory.records import Block

EVENT = 7
PRICE = 1000


class Hall:
    """Holds of one event whose MySQL is a list."""

    def __init__(self, redis: Redis, total: int, **options: Any) -> None:
        self.redis = redis
        self.total = total
        self.live: list[Booking] = []
        self.reads = 0
        self.holds = Holds(redis, self._read, reap_every=timedelta(), **options)

    async def _read(self, event_id: int) -> Snapshot:
        self.reads += 1
        return Snapshot(self.total, list(self.live))

    async def hold(self, *requests: HoldRequest) -> list[HoldOutcome | Exception]:
        return await self.holds.hold_many(requests)

    async def held(self, request: HoldRequest) -> Booking:
        (outcome,) = await self.hold(request)
        assert isinstance(outcome, HoldOutcome), outcome
        return outcome.booking

    async def taken(self) -> set[int]:
        _, bitmap = await self.holds.seats(EVENT)
        return {seat for seat in range(self.total) if bitmap[seat // 8] >> (7 - seat % 8) & 1}

    async def end(self, booking_id: str) -> None:
        """Lets the time of a hold run out."""
        await self.redis.zadd(key("expiries"), {booking_id: 0})
        await self.holds.reap(EVENT)

    async def left(self) -> int:
        progress = await self.holds.progress(EVENT)
        assert progress is not None
        return progress.left


@asynccontextmanager
async def open_hall(redis_url: str, total: int = 20, **options: Any) -> AsyncIterator[Hall]:
    async with open_redis(redis_url) as redis:
        yield Hall(redis, total, **options)


def key(name: str) -> str:
    return f"event:{{{EVENT}}}:{name}"


def asks(
    user: int, *blocks: Sequence[int], key: str = "key-00001", limit: int = 4, wants: str = "the same"
) -> HoldRequest:
    """A request for the first free one of the blocks; another `wants` is another request."""
    return HoldRequest(
        booking_id=booking_id_for(user, EVENT, key),
        event_id=EVENT,
        user_id=user,
        request_hash=hashlib.sha256(wants.encode()).digest(),
        limit=limit,
        blocks=tuple(Block(tuple(block), PRICE * len(block)) for block in blocks),
    )


def committed(user: int, seats: Iterable[int], state: BookingState, *, key: str = "key-00001") -> Booking:
    """A booking as MySQL has it."""
    indexes = tuple(seats)
    now = datetime.now(tz=UTC).replace(microsecond=0)
    return Booking(
        booking_id=booking_id_for(user, EVENT, key),
        event_id=EVENT,
        user_id=user,
        state=state,
        seat_indexes=indexes,
        amount=Money(PRICE * len(indexes)),
        request_hash=hashlib.sha256(b"the same").digest(),
        expire_time=now + timedelta(minutes=10),
        create_time=now,
    )


def without(hall: Hall, tmp_path: Path, guard: str, instead: str) -> None:
    """Takes a guard out of the hold script: for controls, which show what it is there for."""
    source = (module._LUA / "hold.lua").read_text()
    assert source.count(guard) == 1, "the guard must be in the script"
    (tmp_path / "hold.lua").write_text(source.replace(guard, instead))
    hall.holds._hold = Script.load(tmp_path / "hold.lua")
