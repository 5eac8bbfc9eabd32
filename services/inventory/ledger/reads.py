"""What the ledger answers about bookings."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from services.common.mysql import Transaction
from services.inventory.domain import Booking, BookingNotFound, PaymentState
from services.inventory.ledger.rows import BOOKING_COLUMNS, payment_state, to_booking, to_naive, with_lists

_PAYMENT_STATE = (
    "(SELECT p.state FROM payments p WHERE p.booking_id = bookings.booking_id ORDER BY p.payment_id DESC LIMIT 1)"
)
SELECT_PAID = f"SELECT {BOOKING_COLUMNS}, {_PAYMENT_STATE} FROM bookings"  # noqa: S608 - constants only
# Few at any moment, and found by the state of payments: asking for each booking would cost as much as reading it.
_PAYING = (
    "SELECT p.booking_id FROM payments p JOIN bookings b ON b.booking_id = p.booking_id "
    "WHERE p.state = 'INTENT' AND b.event_id = %s"
)
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
_PAGE_MOST = 500
# The last row of a booking is that of its latest payment.
_PAYMENTS_OF = "SELECT booking_id, state FROM payments WHERE booking_id IN %s ORDER BY payment_id"
# The ids of an event's bookings begin alike and so stand together in the primary key.
_PAGE = (
    f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE booking_id > %s AND booking_id < %s "  # noqa: S608 - constants only
    "AND (state IN ('RESERVED', 'CONFIRMED') OR update_time >= UTC_TIMESTAMP(6) - INTERVAL %s MICROSECOND) "
    "ORDER BY booking_id LIMIT %s"
)
# By the index on the state: few are intents. More than this many are beyond every limit, and not worth counting.
_UNANSWERED = (
    "SELECT COUNT(*) FROM (SELECT 1 FROM payments WHERE state = 'INTENT' "
    "AND create_time <= UTC_TIMESTAMP(6) - INTERVAL %s MICROSECOND LIMIT 10000) unanswered"
)
# Bookings end until their hold time after the sale is over.
_OPEN_EVENTS = (
    "SELECT event_id FROM events WHERE published AND sale_open_time <= UTC_TIMESTAMP(6) + INTERVAL 1 MINUTE "
    "AND sale_close_time > UTC_TIMESTAMP(6) - INTERVAL 1 HOUR ORDER BY event_id"
)


async def booking(tx: Transaction, booking_id: str, user_id: int) -> Booking | None:
    """A booking of this person, with what is known of its payment; None also for someone else's."""
    row = await tx.fetch_one(f"{SELECT_PAID} WHERE booking_id = %s AND user_id = %s", (booking_id, user_id))
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
        f"{SELECT_PAID} WHERE user_id = %s {tail}ORDER BY create_time DESC, booking_id DESC LIMIT %s",
        (user_id, *args, page_size),
    )
    return [to_booking(row) for row in rows]


async def live_bookings(tx: Transaction, event_id: int, ended_within: timedelta) -> list[Booking]:
    """The bookings of an event that hold seats, and those that ended lately."""
    rows = await tx.fetch_all(_LIVE_OR_RECENT, (event_id, ended_within // timedelta(microseconds=1)))
    return await _with_payments(tx, event_id, rows)


async def changed_bookings(tx: Transaction, event_id: int, within: timedelta, after: Booking | None) -> list[Booking]:
    """A page of the bookings of an event that changed lately, whatever their state."""
    user_id, booking_id = (after.user_id, after.booking_id) if after else (0, "")
    microseconds = within // timedelta(microseconds=1)
    rows = await tx.fetch_all(_CHANGED, (event_id, user_id, user_id, booking_id, microseconds, _PAGE_MOST))
    return await _with_payments(tx, event_id, rows)


async def page_of_event(tx: Transaction, event_id: int, after: str, ended_within: timedelta) -> list[Booking]:
    """As `live_bookings`, in the order of their ids: those behind `after`."""
    prefix = f"{event_id:x}-"
    end = prefix.replace("-", ".")  # the character behind "-"
    window = ended_within // timedelta(microseconds=1)
    rows = await tx.fetch_all(_PAGE, (after or prefix, end, window, _PAGE_MOST))
    return await _with_payments(tx, event_id, rows)


async def _with_payments(tx: Transaction, event_id: int, rows: Sequence[tuple[Any, ...]]) -> list[Booking]:
    """The bookings, those PROCESSING whose payment is under way. Nothing else about payments is looked up."""
    paying = {booking_id for (booking_id,) in await tx.fetch_all(_PAYING, (event_id,))}
    bookings = [to_booking(row) for row in rows]
    return [replace(b, payment_state=PaymentState.PROCESSING) if b.booking_id in paying else b for b in bookings]


async def payment_states(tx: Transaction, booking_ids: Sequence[str]) -> dict[str, PaymentState]:
    """What has become of the latest payment of each of the bookings; those without one are absent."""
    if not booking_ids:
        return {}
    rows = await tx.fetch_all(*with_lists(_PAYMENTS_OF, list(booking_ids)))
    return {booking_id: payment_state(state) for booking_id, state in rows}


async def unanswered_payments(tx: Transaction, after: timedelta) -> int:
    """Payments that were begun longer ago than `after` and have no outcome; at most 10,000 are counted."""
    row = await tx.fetch_one(_UNANSWERED, (after // timedelta(microseconds=1),))
    return int(row[0]) if row else 0


async def open_events(tx: Transaction) -> list[int]:
    """Ids of the events that are on sale, will be within a minute, or were until an hour ago."""
    return [event_id for (event_id,) in await tx.fetch_all(_OPEN_EVENTS)]
