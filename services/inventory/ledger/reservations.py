"""Reservations become durable: many commands, one transaction, a handful of statements.

What serializes what:

- Two bookings of one ticket: the row locks of `tickets`, taken in the order of their ids, so that no two batches wait
  for each other.
- Two deliveries of one command, to one worker or to two: they want the same tickets, and what is stored is read after
  the locks are held. READ COMMITTED lets that read see what the other delivery has committed.
- Two bookings of one person (the limit per person): commands are keyed by their event, so that one worker handles those
  of an event in their order, and this batch counts as it goes. When a partition moves to another worker while the old
  one is still at it, the new one is given the same commands first, waits for their tickets, and then counts.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from services.common.mysql import Transaction
from services.inventory.decisions import Floor, decide, overdue
from services.inventory.domain import Booking, BookingState
from services.inventory.ledger import facts
from services.inventory.ledger.reads import SELECT_PAID
from services.inventory.ledger.rows import BOOKING_COLUMNS, to_aware, to_booking, to_naive, to_row, with_lists

_LOCK_TICKETS = "SELECT id, booking_id, price FROM tickets WHERE id IN %s ORDER BY id FOR UPDATE"
_BOOKINGS_OF = f"SELECT {BOOKING_COLUMNS} FROM bookings WHERE event_id IN %s AND user_id IN %s"  # noqa: S608 - constants only
_BOOKINGS = f"{SELECT_PAID} WHERE booking_id IN %s"
_LIMITS = "SELECT event_id, tickets_per_person FROM events WHERE event_id IN %s"
_NOW = "SELECT UTC_TIMESTAMP(6)"
# Every row exists and is locked here, so that the INSERT is always an UPDATE: one statement gives each ticket an owner
# of its own, where an UPDATE would need a CASE that grows with the square of the batch.
_TAKE_TICKETS = (
    "INSERT INTO tickets (id, event_id, status, price, booking_id) VALUES (%s, %s, %s, %s, %s) "
    "ON DUPLICATE KEY UPDATE status = VALUES(status), booking_id = VALUES(booking_id)"
)
_ROWS_PER_UPDATE = 2  # what the server counts for a row that such an INSERT has updated
_INSERT_BOOKINGS = (
    f"INSERT INTO bookings ({BOOKING_COLUMNS}, ticket_count, update_time) "  # noqa: S608 - constants only
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


class LedgerBroken(Exception):
    """The tables contradict each other. Nothing was committed."""


class Overdue(Exception):
    """Bookings stand in the way whose time is over: expire them, then try again."""

    def __init__(self, booking_ids: Sequence[str]) -> None:
        super().__init__(f"{len(booking_ids)} bookings are overdue")
        self.booking_ids = booking_ids


async def commit(tx: Transaction, commands: Sequence[Booking], *, patient: bool) -> list[Booking]:
    """Decides the commands and writes what was decided; what was decided before is answered as it is stored now.

    Before the commands come the bookings that own what some of them asked for, as they were found: Redis seems not to
    know them, and is told with the rest.

    Raises Overdue, unless patient, when an overdue booking would cost somebody their seats: it must be expired by its
    own transaction, which locks the booking before its tickets as everyone else who knows the booking does.
    """
    tickets = await _lock_tickets(tx, commands)
    known = await _bookings_of(tx, commands)
    fresh = _first_of_each(each for each in commands if each.booking_id not in known)
    if not fresh:
        return [known[each.booking_id] for each in commands]
    floor = await _floor(tx, fresh, tickets, known.values())
    owners = await _owners(tx, fresh, floor)
    if not patient:
        _check_overdue(fresh, floor, known.values(), owners)
    decided = decide(fresh, floor)
    await _write(tx, decided, tickets, floor.now)
    by_id = known | {each.booking_id: each for each in decided}
    return owners + [by_id[each.booking_id] for each in commands]


def _first_of_each(commands: Iterable[Booking]) -> list[Booking]:
    """A repeat asks for other seats when Redis was lost in between: those of the first answer are promised."""
    first: dict[str, Booking] = {}
    for each in commands:
        first.setdefault(each.booking_id, each)
    return list(first.values())


async def _lock_tickets(tx: Transaction, commands: Sequence[Booking]) -> dict[int, tuple[str | None, Decimal]]:
    ids = sorted({ticket for each in commands for ticket in each.ticket_ids})
    return {ticket: (owner, price) for ticket, owner, price in await tx.fetch_all(*with_lists(_LOCK_TICKETS, ids))}


async def _bookings_of(tx: Transaction, commands: Sequence[Booking]) -> dict[str, Booking]:
    """All bookings of these people for these events: the commands that were decided, and what counts for the limit."""
    events = sorted({each.event_id for each in commands})
    people = sorted({each.user_id for each in commands})
    rows = await tx.fetch_all(*with_lists(_BOOKINGS_OF, events, people))
    return {booking.booking_id: booking for booking in map(to_booking, rows)}


async def _floor(
    tx: Transaction,
    fresh: Sequence[Booking],
    tickets: dict[int, tuple[str | None, Decimal]],
    known: Collection[Booking],
) -> Floor:
    limits = await tx.fetch_all(*with_lists(_LIMITS, sorted({each.event_id for each in fresh})))
    floor = Floor(
        now=await utc_now(tx),
        owners={ticket: owner for ticket, (owner, _) in tickets.items()},
        limits=dict(limits),
    )
    for booking in known:
        if booking.state.live:
            person = (booking.event_id, booking.user_id)
            floor.held[person] = floor.held.get(person, 0) + len(booking.seat_indexes)
    return floor


async def _owners(tx: Transaction, fresh: Sequence[Booking], floor: Floor) -> list[Booking]:
    """The bookings that stand in the way of others; most batches have none, and ask nothing."""
    ids = sorted({owner for each in fresh for ticket in each.ticket_ids if (owner := floor.owners.get(ticket))})
    rows = await tx.fetch_all(*with_lists(_BOOKINGS, ids)) if ids else []
    return [to_booking(row) for row in rows]


def _check_overdue(
    fresh: Sequence[Booking], floor: Floor, known: Collection[Booking], owners: Sequence[Booking]
) -> None:
    people = {(each.event_id, each.user_id) for each in fresh}
    in_the_way = {each.booking_id: each for each in known if (each.event_id, each.user_id) in people}
    in_the_way |= {each.booking_id: each for each in owners}
    if late := overdue(in_the_way.values(), floor.now):
        raise Overdue(late)


async def _write(
    tx: Transaction,
    decided: Sequence[Booking],
    tickets: dict[int, tuple[str | None, Decimal]],
    now: datetime,
) -> None:
    won = [each for each in decided if each.state is BookingState.RESERVED]
    taken = [(t, each.event_id, "RESERVED", tickets[t][1], each.booking_id) for each in won for t in each.ticket_ids]
    if await tx.execute_many(_TAKE_TICKETS, taken) != _ROWS_PER_UPDATE * len(taken):
        raise LedgerBroken("a ticket that was available could not be taken")
    rows = [(*to_row(each), len(each.seat_indexes), to_naive(now)) for each in decided]
    await tx.execute_many(_INSERT_BOOKINGS, rows)
    await facts.put(tx, decided, now)


async def utc_now(tx: Transaction) -> datetime:
    """MySQL's clock, the only one that decides what has expired."""
    row = await tx.fetch_one(_NOW)
    assert row is not None
    return to_aware(row[0])
