"""The ledger: what commits in MySQL. Each method of `Ledger` is one transaction, repeated after a conflict.

`reservations`, `expiry`, `payments` and `reads` hold what happens inside of the transactions, `facts`
writes the outbox.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from services.common.mysql import Database
from services.inventory.domain import PAYMENT_PATIENCE, Booking, PaymentState
from services.inventory.ledger import expiry, payments, reads, reservations
from services.inventory.ledger.payments import Opened, Outcome, Payment, PaymentRequest
from services.inventory.ledger.reservations import LedgerBroken, Overdue

__all__ = ["Ledger", "LedgerBroken", "Opened", "Outcome", "Payment", "PaymentRequest"]


class Ledger:
    """Bookings, tickets and payments in MySQL, whose clock decides what has expired.

    Args:
        db: the database of inventory.
        payment_window: a first payment has at least this long before its booking expires.
        patience: how long after its time a booking keeps its seats while a provider owes us an answer.
    """

    def __init__(
        self,
        db: Database,
        *,
        payment_window: timedelta = timedelta(seconds=20),
        patience: timedelta = PAYMENT_PATIENCE,
    ) -> None:
        self._db = db
        self._window = payment_window
        self._patience = patience

    async def commit_reservations(self, commands: Sequence[Booking]) -> list[Booking]:
        """Makes PENDING bookings durable as RESERVED, REJECTED or EXPIRED; the first in order wins.

        Returns everything that Redis must be told: overdue bookings that had to make way, the owners of seats that
        were refused (Redis would not have offered them, had it known), then the commands in their order, as they are
        stored now. A command that was decided before changes nothing.
        """
        try:
            return await self._commit(commands, patient=False)
        except Overdue as found:
            ids = found.booking_ids
        expired = await self._db.retrying(lambda tx: expiry.expire_these(tx, ids, self._patience))
        return expired + await self._commit(commands, patient=True)

    async def _commit(self, commands: Sequence[Booking], *, patient: bool) -> list[Booking]:
        return await self._db.retrying(lambda tx: reservations.commit(tx, commands, patient=patient))

    async def booking(self, booking_id: str, user_id: int) -> Booking | None:
        """A booking of this person, with what is known of its payment; None also for someone else's."""
        return await self._db.retrying(lambda tx: reads.booking(tx, booking_id, user_id))

    async def bookings_of(
        self, user_id: int, page_size: int, before: tuple[datetime, str] | None = None
    ) -> list[Booking]:
        """A page of this person's bookings, newest first; `before` is create time and id of the last one seen."""
        return await self._db.retrying(lambda tx: reads.bookings_of(tx, user_id, page_size, before))

    async def live_bookings(self, event_id: int, *, ended_within: timedelta = timedelta()) -> list[Booking]:
        """The RESERVED and CONFIRMED bookings of an event, and those that ended within a time: what Redis mirrors."""
        return await self._db.retrying(lambda tx: reads.live_bookings(tx, event_id, ended_within))

    async def changed_bookings(self, event_id: int, within: timedelta, after: Booking | None = None) -> list[Booking]:
        """A page of the bookings of an event that changed within a time: what Redis has been told, or should have been.

        `after` is the last one of the page before; an empty page is the end.
        """
        return await self._db.retrying(lambda tx: reads.changed_bookings(tx, event_id, within, after))

    async def page_of_event(self, event_id: int, after: str, *, ended_within: timedelta = timedelta()) -> list[Booking]:
        """As `live_bookings`, a page at a time by booking id: those behind `after`, "" at first."""
        return await self._db.retrying(lambda tx: reads.page_of_event(tx, event_id, after, ended_within))

    async def open_events(self) -> list[int]:
        """Ids of the events that are on sale, will be within a minute, or were until an hour ago."""
        return await self._db.retrying(reads.open_events)

    async def payment_states(self, booking_ids: Sequence[str]) -> dict[str, PaymentState]:
        """What has become of the latest payment of each of the bookings; those without one are absent."""
        return await self._db.retrying(lambda tx: reads.payment_states(tx, booking_ids))

    async def unanswered_payments(self, after: timedelta) -> int:
        """Payments that were begun longer ago than `after` and have no outcome; at most 10,000 are counted."""
        return await self._db.retrying(lambda tx: reads.unanswered_payments(tx, after))

    async def cancel(self, booking_id: str, user_id: int) -> Booking:
        """Cancels a RESERVED booking; its tickets are available at once. A repeat answers the cancelled booking.

        Raises BookingNotFound, BookingNotCancellable, IdempotencyInProgress (a payment is running).
        """
        return await self._db.retrying(lambda tx: expiry.cancel(tx, booking_id, user_id))

    async def expire_due(self, most: int = 200) -> list[Booking]:
        """Expires up to `most` overdue bookings. Any number of callers share the work without waiting."""
        return await self._db.retrying(lambda tx: expiry.expire_due(tx, most, self._patience))

    async def open_payment(self, request: PaymentRequest) -> Opened:
        """Writes the intent to pay a booking, or finds what the same request did before.

        Raises BookingNotFound, BookingNotPayable, BookingExpired, IdempotencyKeyReused, IdempotencyInProgress.
        """
        return await self._db.retrying(lambda tx: payments.open_payment(tx, request, self._window))

    async def close_payment(self, payment: Payment, outcome: Outcome) -> Booking:
        """Writes the outcome of a payment and what follows for its booking. Idempotent: the first outcome stays."""
        return await self._db.retrying(lambda tx: payments.close_payment(tx, payment, outcome))

    async def close_refund(self, payment: Payment) -> Booking:
        """Writes that the money of a payment went back. Idempotent."""
        return await self._db.retrying(lambda tx: payments.close_refund(tx, payment))

    async def claim_unfinished(self, idle: timedelta, most: int = 50) -> list[Payment]:
        """Takes payments that stopped half-way; no other caller gets them before `idle` has passed again."""
        return await self._db.retrying(lambda tx: payments.claim_unfinished(tx, idle, most))
