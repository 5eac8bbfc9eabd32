"""What Redis says about the seats of an event, read as a whole and changed never: for the auditor."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from services.inventory import records
from services.inventory.holds import key


@dataclass(frozen=True, slots=True)
class Taken:
    """A seat that is taken: for which booking ("" for none), and when that hold ends (None for never)."""

    seat: int
    booking_id: str
    due: datetime | None


async def taken_seats(redis: Redis, event_id: int) -> list[Taken] | None:
    """The seats that are taken, in one moment; None while Redis does not know the event."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.exists(key(event_id, "counts"))
        pipe.get(key(event_id, "seats"))
        pipe.hgetall(key(event_id, "owners"))
        pipe.zrange(key(event_id, "expiries"), 0, -1, withscores=True)
        ready, bitmap, owners, expiries = await pipe.execute()
    # A hall of 20,000 seats takes a tenth of a second, which bookings must not wait for.
    return await asyncio.to_thread(_taken, bitmap, owners, expiries) if ready else None


def _taken(bitmap: bytes | None, owners: Mapping[bytes, bytes], expiries: Sequence[tuple[bytes, float]]) -> list[Taken]:
    owner_of = {int(seat): owner.decode() for seat, owner in owners.items()}
    due_of = {member.decode(): datetime.fromtimestamp(score / 1000, tz=UTC) for member, score in expiries}
    seats = sorted({*_bits(bitmap or b""), *owner_of})
    return [Taken(seat, owner_of.get(seat, ""), due_of.get(owner_of.get(seat, ""))) for seat in seats]


async def promised_before(redis: Redis, event_id: int, time: datetime) -> dict[str, datetime]:
    """Bookings that were promised before a time and that Redis has heard nothing of since, and when that was."""
    found: list[Any] = await redis.zrangebyscore(
        key(event_id, "promised"), "-inf", records.to_ms(time), withscores=True
    )
    return {booking_id.decode(): records.from_ms(int(score)) for booking_id, score in found}


def _bits(bitmap: bytes) -> list[int]:
    """Positions of the bits that are set, the most significant of the first byte being 0."""
    return [at * 8 + bit for at, byte in enumerate(bitmap) if byte for bit in range(8) if byte & (0x80 >> bit)]
