"""How a booking is paid, in four steps, each of which may be the last before a crash.

1. One transaction writes the intent and lengthens the hold.  After a crash: the completer asks the provider.
2. The provider is called, with a key of our own row.          After a crash: the same; a repeat takes nothing twice.
3. One transaction writes outcome, booking, tickets and facts. After a crash: all is said and done.
4. Redis is told.                                              After a crash: the reconciler tells it.

No transaction is open while the provider is called.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.common import metrics
from services.inventory.domain import (
    Booking,
    BookingNotFound,
    BookingNotPayable,
    IdempotencyInProgress,
    PaymentDeclined,
    PaymentState,
    event_of_booking,
)
from services.inventory.ledger import Ledger, Opened, Outcome, Payment, PaymentRequest
from services.inventory.payments.gateway import Gateway, ProviderUnavailable

PROVIDER_TIMEOUT: Final = timedelta(seconds=4)

CheckDecided = Callable[[str, int, type[BookingNotPayable]], Awaitable[None]]
"""Raises the error for a booking of this person that was promised and that MySQL does not know yet."""

Settle = Callable[[list[Booking]], Awaitable[None]]
"""Tells Redis what MySQL has committed: `Holds.settle_many`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PaidBooking:
    """The booking after an attempt to pay it: CONFIRMED, or with a payment that is PROCESSING."""

    row: Booking
    replayed: bool


class PaymentFlow:
    """Pays bookings.

    Args:
        ledger: where payments are kept.
        gateway: the provider.
        settle: tells Redis; may fail, which loses nothing.
        check_decided: tells a booking that is still PENDING from one that does not exist.
        timeout: how long the provider may take; a payment without an answer is completed in the background.
    """

    def __init__(
        self,
        ledger: Ledger,
        gateway: Gateway,
        settle: Settle,
        check_decided: CheckDecided,
        *,
        timeout: timedelta = PROVIDER_TIMEOUT,
    ) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._settle = settle
        self._check_decided = check_decided
        self._timeout = timeout

    async def pay(self, booking_id: str, user_id: int, payment_method: str, idempotency_key: str) -> PaidBooking:
        """Pays a RESERVED booking; idempotent by key per booking, also for what the first attempt came to.

        Raises InvalidArgument (unknown method), BookingNotFound, BookingNotPayable, BookingExpired, PaymentDeclined,
        IdempotencyKeyReused, IdempotencyInProgress (also while a payment with another key is running).
        """
        self._gateway.check_method(payment_method)
        event_of_booking(booking_id)  # no text that cannot be an id reaches the database
        method_hash = hash_of_method(payment_method)
        opened = await self._open(PaymentRequest(booking_id, user_id, idempotency_key, method_hash, self._gateway.name))
        if not opened.fresh:
            return self._replay(opened)
        await self._mirror(opened.booking)
        outcome = await self._charge(opened.payment, payment_method)
        if outcome is None:
            return PaidBooking(opened.booking, replayed=False)
        booking = await self._ledger.close_payment(opened.payment, outcome)
        await self._mirror(booking)
        return _answer(booking, replayed=False)

    async def _open(self, request: PaymentRequest) -> Opened:
        try:
            return await self._ledger.open_payment(request)
        except BookingNotFound:
            await self._check_decided(request.booking_id, request.user_id, BookingNotPayable)
            raise

    def _replay(self, opened: Opened) -> PaidBooking:
        # While the first call may still be waiting for the provider nobody knows its answer; later it was PROCESSING.
        if opened.payment.state == "INTENT" and opened.age < self._timeout:
            raise IdempotencyInProgress
        return _answer(opened.booking, replayed=True)

    async def _charge(self, payment: Payment, method: str) -> Outcome | None:
        """The outcome, or None when it is not known: then the payment stays an intent, for the completer."""
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                outcome = await self._gateway.charge(payment.provider_key, payment.amount, method)
        except TimeoutError:
            self._count("timeout")
            return None
        except ProviderUnavailable:
            self._count("error")
            return None
        self._count("approved" if outcome is Outcome.CAPTURED else "declined")
        return outcome

    async def _mirror(self, booking: Booking) -> None:
        try:
            await self._settle([booking])
        except Exception as error:  # noqa: BLE001 - whatever is wrong with Redis, what MySQL has committed is true
            fields = {"booking_id": booking.booking_id, "error": type(error).__name__}
            _log.warning("Redis could not be told about a payment", extra={"fields": fields})

    def _count(self, outcome: str) -> None:
        metrics.PAYMENTS.labels(provider=self._gateway.name, outcome=outcome).inc()


def hash_of_method(payment_method: str) -> bytes:
    """What is kept of a payment method, to tell a repeat from another request: the method itself is a secret."""
    return hashlib.sha256(f"boxoffice.method|{payment_method}".encode()).digest()


def _answer(booking: Booking, *, replayed: bool) -> PaidBooking:
    if booking.payment_state is PaymentState.DECLINED:
        raise PaymentDeclined
    return PaidBooking(booking, replayed)
