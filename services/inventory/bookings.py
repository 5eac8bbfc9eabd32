"""Reading and cancelling bookings: Redis knows what is PENDING, MySQL knows everything else."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from redis.exceptions import RedisError

from services.inventory.domain import (
    Booking,
    BookingNotCancellable,
    BookingNotFound,
    BookingNotPayable,
    BookingState,
    PaymentState,
    event_of_booking,
)
from services.inventory.holds import Holds
from services.inventory.ledger import Ledger

_log = logging.getLogger(__name__)


class Bookings:
    """The bookings of people."""

    def __init__(self, ledger: Ledger, holds: Holds) -> None:
        self._ledger = ledger
        self._holds = holds

    async def find(self, booking_id: str, user_id: int) -> Booking:
        """A booking of this person. Raises BookingNotFound, also for someone else's."""
        record = await self._record(booking_id)
        if record is not None and record.user_id != user_id:
            raise BookingNotFound
        # What its payment has come to is known to MySQL alone, and before it is RESERVED there is none.
        if record is not None and record.state is BookingState.PENDING:
            return record
        booking = await self._ledger.booking(booking_id, user_id)
        if booking is None:
            raise BookingNotFound
        return booking

    async def _record(self, booking_id: str) -> Booking | None:
        event_id = event_of_booking(booking_id)
        try:
            (record,) = await self._holds.read_many([(event_id, booking_id)])
        except RedisError as error:
            _log.warning("booking is read from MySQL alone", extra={"fields": {"error": type(error).__name__}})
            return None
        return record

    async def check_decided(
        self, booking_id: str, user_id: int, refusal: type[BookingNotPayable | BookingNotCancellable]
    ) -> None:
        """Raises `refusal` for a booking of this person that MySQL does not know yet: it is PENDING."""
        record = await self._record(booking_id)
        if record is not None and record.user_id == user_id:
            raise refusal("The booking is being made durable. Try again in a moment.")

    async def payment_states(self, booking_ids: Sequence[str]) -> Mapping[str, PaymentState]:
        """What has become of the latest payment of each of the bookings; those without one are absent."""
        return await self._ledger.payment_states(booking_ids)

    async def of_user(self, user_id: int, most: int, before: tuple[datetime, str] | None) -> list[Booking]:
        """Bookings of this person, newest first, those behind `before`."""
        return await self._ledger.bookings_of(user_id, most, before)

    async def cancel(self, booking_id: str, user_id: int) -> tuple[Booking, bool]:
        """Cancels a RESERVED booking; answers it, and whether it was cancelled before.

        Raises BookingNotFound, BookingNotCancellable, IdempotencyInProgress.
        """
        event_of_booking(booking_id)
        earlier = await self._ledger.booking(booking_id, user_id)
        if earlier is None:
            await self.check_decided(booking_id, user_id, BookingNotCancellable)
        cancelled = await self._ledger.cancel(booking_id, user_id)
        try:
            await self._holds.settle_many([cancelled])
        except RedisError as error:
            # MySQL has committed; the reconciler tells Redis later.
            _log.warning("seats of a cancelled booking are freed later", extra={"fields": {"error": repr(error)}})
        return cancelled, earlier is not None and earlier.state is BookingState.CANCELLED
