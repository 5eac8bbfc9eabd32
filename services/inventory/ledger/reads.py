"""What the ledger answers about bookings."""

from datetime import datetime, timedelta

from services.common.mysql import Transaction
from services.inventory.domain import Booking, BookingNotFound
from services.inventory.ledger.rows import BOOKING_COLUMNS, to_booking, to_naive

_PAYMENT_STATE = (
    "(SELECT p.state FROM payments p WHERE p.booking_id = bookings.booking_id ORDER BY p.payment_id DESC LIMIT 1)"
)
_SELECT = f"SELECT {BOOKING_COLUMNS}, {_PAYMENT_STATE} FROM bookings"  # noqa: S608 - constants only
_LIVE_OR_RECENT = (
    f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE event_id = %s "  # noqa: S608 - constants only
    "AND (state IN ('RESERVED', 'CONFIRMED') OR update_time >= UTC_TIMESTAMP(6) - INTERVAL %s MICROSECOND)"
)
# In the order of an index, so that each page begins where the one before has ended.
_CHANGED = (
    f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE event_id = %s "  # noqa: S608 - constants only
    "AND user_id >= %s AND (user_id > %s OR booking_id > %s) "
    "AND update_time >= UTC_TIMESTAMP(6) - INTERVAL %s MICROSECOND ORDER BY user_id, booking_id LIMIT %s"
)
# Read in a few milliseconds: who makes bookings durable in the same process must not wait longer.
_CHANGED_MOST = 500
# Bookings end until their hold time after the sale is over.
_OPEN_EVENTS = (
    "SELECT event_id FROM events WHERE published AND sale_open_time <= UTC_TIMESTAMP(6) "
    "AND sale_close_time > UTC_TIMESTAMP(6) - INTERVAL 1 HOUR ORDER BY event_id"
)


async def booking(tx: Transaction, booking_id: str, user_id: int) -> Booking | None:
    """A booking of this person, with what is known of its payment; None also for someone else's."""
    row = await tx.fetch_one(f"{_SELECT} WHERE booking_id = %s AND user_id = %s", (booking_id, user_id))
    return to_booking(row) if row else None


async def lock_booking(tx: Transaction, booking_id: str, user_id: int | None = None) -> Booking:
    """A booking, locked until the transaction ends. Raises BookingNotFound also for someone else's."""
    row = await tx.fetch_one(
        f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE booking_id = %s FOR UPDATE",  # noqa: S608 - constants only
        (booking_id,),
    )
    found = to_booking(row) if row else None
    if found is None or user_id not in (None, found.user_id):
        raise BookingNotFound
    return found


async def bookings_of(
    tx: Transaction, user_id: int, page_size: int, before: tuple[datetime, str] | None
) -> list[Booking]:
    """Bookings of this person, newest first, those after the one with this create time and id."""
    if before is None:
        tail, args = "", []
    else:
        tail, args = "AND (create_time, booking_id) < (%s, %s) ", [to_naive(before[0]), before[1]]
    rows = await tx.fetch_all(
        f"{_SELECT} WHERE user_id = %s {tail}ORDER BY create_time DESC, booking_id DESC LIMIT %s",
        (user_id, *args, page_size),
    )
    return [to_booking(row) for row in rows]


async def live_bookings(tx: Transaction, event_id: int, ended_within: timedelta) -> list[Booking]:
    """The bookings of an event that hold seats, and those that ended lately."""
    rows = await tx.fetch_all(_LIVE_OR_RECENT, (event_id, ended_within // timedelta(microseconds=1)))
    return [to_booking(row) for row in rows]


async def changed_bookings(tx: Transaction, event_id: int, within: timedelta, after: Booking | None) -> list[Booking]:
    """A page of the bookings of an event that changed lately, whatever their state."""
    user_id, booking_id = (after.user_id, after.booking_id) if after else (0, "")
    microseconds = within // timedelta(microseconds=1)
    rows = await tx.fetch_all(_CHANGED, (event_id, user_id, user_id, booking_id, microseconds, _CHANGED_MOST))
    return [to_booking(row) for row in rows]


async def open_events(tx: Transaction) -> list[int]:
    """Ids of the events that are on sale, or were until an hour ago."""
    return [event_id for (event_id,) in await tx.fetch_all(_OPEN_EVENTS)]
