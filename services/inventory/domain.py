"""Values, ids, the state machine of a booking, and what can go wrong. Standard library only."""

import base64
import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

SEAT_BITS = 20
MAX_TICKETS = 8
CURRENCY = "KRW"
PAYMENT_PATIENCE = timedelta(minutes=2)
"""How long after its time a booking keeps its seats while a provider owes us an answer."""
# Ticket ids have 63 bits.
_EVENT_IDS = range(1, 1 << (63 - SEAT_BITS))
_BOOKING_DIGEST_BYTES = 16
_BOOKING_DIGEST_CHARS = 26


class BookingState(enum.IntEnum):
    """Where a booking is in its life. The numbers are those of the contract."""

    PENDING = 1
    RESERVED = 2
    CONFIRMED = 3
    REJECTED = 4
    EXPIRED = 5
    CANCELLED = 6
    REFUNDED = 7

    @property
    def live(self) -> bool:
        """Whether the seats of such a booking are taken."""
        return self in _LIVE

    @property
    def final(self) -> bool:
        """Whether the buyer has nothing more to wait for."""
        return self not in {BookingState.PENDING, BookingState.RESERVED}

    def may_become(self, other: "BookingState") -> bool:
        """Whether the state machine has the arrow self → other."""
        return other in _ARROWS[self]


_LIVE = frozenset({BookingState.PENDING, BookingState.RESERVED, BookingState.CONFIRMED})

# A payment that was captured too late revives an EXPIRED or CANCELLED booking when its seats are still free, and
# refunds it otherwise: the only arrows out of a final state, and each of them is told to the buyer.
_ARROWS: dict[BookingState, frozenset[BookingState]] = {
    BookingState.PENDING: frozenset({BookingState.RESERVED, BookingState.REJECTED, BookingState.EXPIRED}),
    BookingState.RESERVED: frozenset(
        {BookingState.CONFIRMED, BookingState.EXPIRED, BookingState.CANCELLED, BookingState.REFUNDED}
    ),
    BookingState.CONFIRMED: frozenset({BookingState.REFUNDED}),
    BookingState.REJECTED: frozenset(),
    BookingState.EXPIRED: frozenset({BookingState.CONFIRMED, BookingState.REFUNDED}),
    BookingState.CANCELLED: frozenset({BookingState.CONFIRMED, BookingState.REFUNDED}),
    BookingState.REFUNDED: frozenset(),
}


class PaymentState(enum.IntEnum):
    """What is known of the payment of a booking. The numbers are those of the contract."""

    NONE = 0
    PROCESSING = 1
    PAID = 2
    DECLINED = 3
    REFUNDED = 4


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of a currency: won for KRW, cents for USD."""

    amount: int
    currency: str = CURRENCY


@dataclass(frozen=True, slots=True)
class Booking:
    """A booking as it is kept: a row of MySQL, or the record of its hold in Redis.

    `Holds.settle_many` mirrors committed ones in Redis and wants them whole, because the hold may be gone: ended
    before the worker came to it, or lost with Redis.
    """

    booking_id: str
    event_id: int
    user_id: int
    state: BookingState
    seat_indexes: tuple[int, ...]
    amount: Money
    request_hash: bytes
    expire_time: datetime
    create_time: datetime
    payment_state: PaymentState = PaymentState.NONE
    traceparent: str = ""

    @property
    def ticket_ids(self) -> list[int]:
        """Its tickets, ascending."""
        return [ticket_id(self.event_id, index) for index in self.seat_indexes]


@dataclass(frozen=True, slots=True)
class SaleEvent:
    """Something that tickets are sold for."""

    event_id: int
    name: str
    venue: str
    start_time: datetime
    sale_open_time: datetime
    sale_close_time: datetime
    currency: str
    tickets_per_person: int
    seat_map_version: str
    seats_total: int
    published: bool

    def check_on_sale(self, now: datetime) -> None:
        """Raises EventNotFound, SaleNotOpen or SaleClosed unless tickets can be had now."""
        if not self.published:
            raise EventNotFound
        if now < self.sale_open_time:
            raise SaleNotOpen
        if now >= self.sale_close_time:
            raise SaleClosed


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of an event is sold, as Redis knows it."""

    version: int
    total: int
    left: int
    sold: int


def ticket_id(event_id: int, seat_index: int) -> int:
    """The id of the ticket for a seat: no table is needed to tell event and seat."""
    return event_id << SEAT_BITS | seat_index


def event_of_ticket(ticket: int) -> int:
    """The event that a ticket belongs to."""
    return ticket >> SEAT_BITS


def seat_of_ticket(ticket: int) -> int:
    """The index of the ticket's seat in the event's seat map."""
    return ticket & ((1 << SEAT_BITS) - 1)


def booking_id_for(user_id: int, event_id: int, idempotency_key: str) -> str:
    """The id of the booking that this account asks for with this key.

    Derived, so that a repeat finds the first booking without a table of keys; the event is readable in it, so that no
    lookup is needed to tell where the booking is kept.
    """
    scope = f"boxoffice.booking|{user_id}|{event_id}|{idempotency_key}".encode()
    digest = hashlib.sha256(scope).digest()[:_BOOKING_DIGEST_BYTES]
    return f"{event_id:x}-{base64.b32encode(digest).decode().rstrip('=').lower()}"


def event_of_booking(booking_id: str) -> int:
    """The event of a booking. Raises BookingNotFound for what cannot be a booking id."""
    event, _, digest = booking_id.partition("-")
    if len(digest) != _BOOKING_DIGEST_CHARS or not digest.isascii() or not digest.isalnum():
        raise BookingNotFound
    try:
        event_id = int(event, 16)
    except ValueError:
        raise BookingNotFound from None
    if f"{event_id:x}" != event or event_id not in _EVENT_IDS:
        raise BookingNotFound
    return event_id


def hash_of_request(event_id: int, ticket_ids: Sequence[int], quantity: int, section: str) -> bytes:
    """SHA-256 of what a reservation asks for, in a canonical form: the order of tickets does not matter."""
    tickets = ",".join(str(ticket) for ticket in sorted(ticket_ids))
    return hashlib.sha256(f"{event_id}|{tickets}|{quantity}|{section}".encode()).digest()


class EventNotFound(Exception):
    """No such sale event, or not published."""

    reason = "EVENT_NOT_FOUND"


class SaleNotOpen(Exception):
    """The sale has not opened yet."""

    reason = "SALE_NOT_OPEN"


class SaleClosed(Exception):
    """The sale is over."""

    reason = "SALE_CLOSED"


class SoldOut(Exception):
    """No seat is left."""

    reason = "SOLD_OUT"


class AdmissionRequired(Exception):
    """No admission token came."""

    reason = "ADMISSION_REQUIRED"


class AdmissionInvalid(Exception):
    """The admission token is forged, expired, of another account or event, or of an admission that has ended."""

    reason = "ADMISSION_INVALID"


class TicketNotFound(Exception):
    """A ticket id is not of this event's seat map."""

    reason = "TICKET_NOT_FOUND"


class SeatsTaken(Exception):
    """A named seat is held or sold, or each of several blocks is; `seats_left` in the whole event."""

    reason = "SEATS_TAKEN"
    told_at_most = 10

    def __init__(self, ticket_ids: Sequence[int], *, seats_left: int) -> None:
        super().__init__("These seats have just been taken.")
        self.seats_left = seats_left
        self.metadata = {"ticket_ids": ",".join(str(ticket) for ticket in ticket_ids[: self.told_at_most])}


class TicketLimit(Exception):
    """More tickets than one person may have."""

    reason = "TICKET_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(f"One person may have {limit} tickets.")
        self.metadata = {"limit": str(limit)}


class NoAdjacentSeats(Exception):
    """Seats are left, but no block of that size."""

    reason = "NO_ADJACENT_SEATS"


class IdempotencyKeyReused(Exception):
    """The key was used for another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class IdempotencyInProgress(Exception):
    """The first call with this key is still running."""

    reason = "IDEMPOTENCY_IN_PROGRESS"


class BookingNotFound(Exception):
    """No such booking, or someone else's: the caller may not tell which."""

    reason = "BOOKING_NOT_FOUND"


class BookingNotPayable(Exception):
    """The booking is not in a state in which it can be paid."""

    reason = "BOOKING_NOT_PAYABLE"


class BookingNotCancellable(Exception):
    """The booking is not in a state in which it can be cancelled."""

    reason = "BOOKING_NOT_CANCELLABLE"


class BookingExpired(Exception):
    """The time to pay is over."""

    reason = "BOOKING_EXPIRED"


class PaymentDeclined(Exception):
    """The provider refused the card."""

    reason = "PAYMENT_DECLINED"
