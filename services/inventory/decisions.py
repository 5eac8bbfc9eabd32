"""Who gets the seats: the decision about a batch of reservations, without any storage. Standard library only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.inventory.domain import Booking, BookingState


@dataclass(slots=True)
class Floor:
    """What the ledger knows about everything that a batch asks for. Deciding marks in it what was given away."""

    now: datetime
    # Owner of each ticket that exists; None when it is available.
    owners: dict[int, str | None]
    # Tickets that one person may have, by event.
    limits: Mapping[int, int]
    # Tickets in live bookings, by event and person.
    held: dict[tuple[int, int], int] = field(default_factory=dict)


def decide(commands: Sequence[Booking], floor: Floor) -> list[Booking]:
    """The commands in their order, each RESERVED, REJECTED or EXPIRED.

    The first in order wins. All tickets or none. A hold that ended before it was decided is EXPIRED and not REJECTED:
    nobody else was first, the time was over.
    """
    return [_decide_one(command, floor) for command in commands]


def _decide_one(command: Booking, floor: Floor) -> Booking:
    if command.expire_time <= floor.now:
        return replace(command, state=BookingState.EXPIRED)
    if not _wins(command, floor):
        return replace(command, state=BookingState.REJECTED)
    _give(command, floor)
    return replace(command, state=BookingState.RESERVED)


def _wins(command: Booking, floor: Floor) -> bool:
    tickets = command.ticket_ids
    free = all(ticket in floor.owners and floor.owners[ticket] is None for ticket in tickets)
    distinct = len(set(tickets)) == len(tickets) > 0
    wanted = floor.held.get((command.event_id, command.user_id), 0) + len(tickets)
    return free and distinct and wanted <= floor.limits.get(command.event_id, 0)


def _give(command: Booking, floor: Floor) -> None:
    person = (command.event_id, command.user_id)
    floor.held[person] = floor.held.get(person, 0) + len(command.seat_indexes)
    floor.owners.update(dict.fromkeys(command.ticket_ids, command.booking_id))


def overdue(bookings: Collection[Booking], now: datetime) -> list[str]:
    """Ids of the RESERVED bookings whose time to pay is over."""
    return [each.booking_id for each in bookings if each.state is BookingState.RESERVED and each.expire_time <= now]
