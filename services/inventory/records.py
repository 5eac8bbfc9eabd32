"""How a booking is packed in Redis: the layout that services/inventory/lua/ reads and writes.

    0   state u8 · holding u8 (1 while its seats are taken for it)
    2   user id u64 · create time ms u64 · expire time ms u64
    26  request hash, 32 bytes
    58  block: amount in minor units u64, then the seat indexes, u32 each

All numbers are big-endian. The booking id is the field of the hash, the event is in the key.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from services.inventory.domain import Booking, BookingState, Money

_HEAD = struct.Struct(">BBQQQ32sQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Block:
    """Seats that are taken together, ascending, and what they cost in minor units."""

    seat_indexes: tuple[int, ...]
    amount: int

    def packed(self) -> bytes:
        """The tail of a record."""
        return struct.pack(f">Q{len(self.seat_indexes)}I", self.amount, *self.seat_indexes)


def pack(booking: Booking, *, holding: bool) -> bytes:
    """The record of a booking; `holding` says whether its seats are taken for it."""
    head = _HEAD.pack(
        booking.state,
        holding,
        booking.user_id,
        to_ms(booking.create_time),
        to_ms(booking.expire_time),
        booking.request_hash,
        booking.amount.amount,
    )
    return head + struct.pack(f">{len(booking.seat_indexes)}I", *booking.seat_indexes)


def unpack(event_id: int, booking_id: str, record: bytes) -> Booking:
    """The booking of a record."""
    state, _, user_id, create_ms, expire_ms, request_hash, amount = _HEAD.unpack_from(record)
    return Booking(
        booking_id=booking_id,
        event_id=event_id,
        user_id=user_id,
        state=BookingState(state),
        seat_indexes=struct.unpack_from(f">{(len(record) - _HEAD.size) // 4}I", record, _HEAD.size),
        amount=Money(amount),
        request_hash=request_hash,
        expire_time=from_ms(expire_ms),
        create_time=from_ms(create_ms),
    )


def to_ms(time: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return (time - _EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The aware time of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=ms)


@cache
def predecessors(state: BookingState) -> bytes:
    """One byte for each state from which `state` can be reached in any number of steps."""
    found: set[BookingState] = set()
    frontier: Sequence[BookingState] = [state]
    while frontier:
        frontier = [other for other in BookingState if other not in found and any(map(other.may_become, frontier))]
        found.update(frontier)
    return bytes(sorted(found))
