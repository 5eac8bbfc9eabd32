"""Bookings end without a ticket: their seats are free in the same transaction.

Whoever knows a booking locks it before its payments and its tickets; that order holds everywhere but in reservations,
which know tickets only and lock nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.common.mysql import Transaction
from services.inventory.domain import Booking, BookingNotCancellable, BookingState, IdempotencyInProgress
from services.inventory.ledger import facts
from services.inventory.ledger.reads import lock_booking
from services.inventory.ledger.reservations import utc_now
from services.inventory.ledger.rows import BOOKING_COLUMNS, to_booking, to_naive, with_lists

# A payment that is under way keeps the seats past their time, until the provider has been silent for too long.
_DUE = """
    state = 'RESERVED' AND expire_time <= %s AND (expire_time <= %s OR NOT EXISTS (
        SELECT 1 FROM payments WHERE payments.active_booking_id = bookings.booking_id AND payments.state = 'INTENT'))
"""
_FIND_DUE = f"""
    SELECT {BOOKING_COLUMNS} FROM bookings WHERE {_DUE} ORDER BY expire_time LIMIT %s FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants only
_FIND_DUE_OF = f"""
    SELECT {BOOKING_COLUMNS} FROM bookings WHERE booking_id IN %s AND {_DUE} ORDER BY booking_id FOR UPDATE
"""  # noqa: S608 - constants only
_FREE = "UPDATE tickets SET status = 'AVAILABLE', booking_id = NULL WHERE id IN %s AND booking_id IN %s"
_END = "UPDATE bookings SET state = %s, update_time = %s WHERE booking_id IN %s"
_PAYING = "SELECT booking_id FROM payments WHERE active_booking_id IN %s AND state = 'INTENT'"


async def expire_due(tx: Transaction, most: int, patience: timedelta) -> list[Booking]:
    """Expires up to `most` overdue bookings, the oldest first, leaving those that others are working on."""
    now = await utc_now(tx)
    rows = await tx.fetch_all(_FIND_DUE, (*_times(now, patience), most))
    return await _expire(tx, [to_booking(row) for row in rows], now, patience)


async def expire_these(tx: Transaction, booking_ids: Sequence[str], patience: timedelta) -> list[Booking]:
    """Expires those of the bookings that are overdue still."""
    now = await utc_now(tx)
    rows = await tx.fetch_all(*with_lists(_FIND_DUE_OF, list(booking_ids), *_times(now, patience)))
    return await _expire(tx, [to_booking(row) for row in rows], now, patience)


async def cancel(tx: Transaction, booking_id: str, user_id: int) -> Booking:
    """Cancels a RESERVED booking of this person; a cancelled one is answered as it is."""
    booking = await lock_booking(tx, booking_id, user_id)
    if booking.state is BookingState.CANCELLED:
        return booking
    if booking.state is not BookingState.RESERVED:
        raise BookingNotCancellable
    if await tx.fetch_all(*with_lists(_PAYING, [booking_id])):
        raise IdempotencyInProgress("A payment of this booking is running.")
    (cancelled,) = await release(tx, [booking], BookingState.CANCELLED, await utc_now(tx))
    return cancelled


async def release(tx: Transaction, bookings: Sequence[Booking], state: BookingState, now: datetime) -> list[Booking]:
    """Ends locked bookings in `state` and frees the tickets that they own; returns them as they are now.

    How many tickets they own is not checked: giving back what a booking owns is right whatever else is wrong, and one
    broken booking must not keep the others from expiring. The auditor tells of it.
    """
    if not bookings:
        return []
    ids = [each.booking_id for each in bookings]
    tickets = sorted(ticket for each in bookings for ticket in each.ticket_ids)
    await tx.execute(*with_lists(_FREE, tickets, ids))
    await tx.execute(*with_lists(_END, state.name, to_naive(now), ids))
    ended = [replace(each, state=state) for each in bookings]
    await facts.put(tx, ended, now)
    return ended


async def _expire(tx: Transaction, due: Sequence[Booking], now: datetime, patience: timedelta) -> list[Booking]:
    # The search may have read the payments as they were before it got the lock on a booking: read them again. None can
    # be added from here on, because whoever pays needs that lock.
    paying = await tx.fetch_all(*with_lists(_PAYING, [each.booking_id for each in due])) if due else []
    spared = {booking_id for (booking_id,) in paying}
    over = [each for each in due if each.booking_id not in spared or each.expire_time <= now - patience]
    return await release(tx, over, BookingState.EXPIRED, now)


def _times(now: datetime, patience: timedelta) -> tuple[datetime, datetime]:
    return to_naive(now), to_naive(now - patience)
