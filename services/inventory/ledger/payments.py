"""Payments in the ledger: the intent before the provider is asked, the outcome after, and what follows from it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from services.common.mysql import Transaction
from services.inventory.domain import (
    Booking,
    BookingExpired,
    BookingNotPayable,
    BookingState,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    Money,
    PaymentState,
)
from services.inventory.ledger import facts
from services.inventory.ledger.expiry import release
from services.inventory.ledger.reads import lock_booking
from services.inventory.ledger.reservations import LedgerBroken, utc_now
from services.inventory.ledger.rows import payment_state, to_aware, to_decimal, to_money, to_naive, with_lists

_COLUMNS = "payment_id, booking_id, provider_key, request_hash, amount, currency, state, create_time"
_INSERT = (
    f"INSERT INTO payments ({_COLUMNS.removeprefix('payment_id, ')}, update_time, idempotency_key, provider) "  # noqa: S608 - constants only
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_CLAIM = (
    f"SELECT {_COLUMNS} FROM payments WHERE state IN ('INTENT', 'REFUND_DUE') AND update_time <= %s "  # noqa: S608 - constants only
    "ORDER BY update_time LIMIT %s FOR UPDATE SKIP LOCKED"
)
_TOUCH = "UPDATE payments SET update_time = %s WHERE payment_id IN %s"
_LOCK_TICKETS = "SELECT booking_id FROM tickets WHERE id IN %s ORDER BY id FOR UPDATE"
_SELL = "UPDATE tickets SET status = 'SOLD', booking_id = %s WHERE id IN %s"


class Outcome(Enum):
    """What a provider says that a charge came to, for good."""

    CAPTURED = "CAPTURED"
    DECLINED = "DECLINED"


@dataclass(frozen=True, slots=True)
class Payment:
    """One attempt to pay a booking."""

    payment_id: int
    booking_id: str
    # The idempotency key that the provider knows this attempt by.
    provider_key: str
    # SHA-256 of the payment method.
    request_hash: bytes
    amount: Money
    # INTENT, CAPTURED, DECLINED, REFUND_DUE or REFUNDED.
    state: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What a buyer asks for."""

    booking_id: str
    user_id: int
    idempotency_key: str
    request_hash: bytes
    provider: str

    @property
    def provider_key(self) -> str:
        """Derived from what identifies the row and not from its number: two installations may share a provider."""
        scope = f"boxoffice.payment|{self.booking_id}|{self.idempotency_key}".encode()
        return "bx-" + base64.b32encode(hashlib.sha256(scope).digest()[:20]).decode().lower()


@dataclass(frozen=True, slots=True)
class Opened:
    """The booking and its payment as they are now. `fresh`: the provider is to be asked, and nobody else will."""

    booking: Booking
    payment: Payment
    age: timedelta
    fresh: bool


async def open_payment(tx: Transaction, request: PaymentRequest, window: timedelta) -> Opened:
    """Writes the intent, or finds the payment that this key made before.

    The first payment of a booking lengthens its hold to `window` from now, so that the answer of the provider finds the
    seats still held; later ones do not, or declined cards would hold seats for ever.
    """
    booking = await lock_booking(tx, request.booking_id, request.user_id)
    now = await utc_now(tx)
    earlier = await _payments_of(tx, request.booking_id)
    if known := earlier.get(request.idempotency_key):
        return _repeated(booking, known, request, now)
    _check_payable(booking, earlier.values(), now)
    if not earlier:
        booking = await _lengthen(tx, booking, now + window, now)
    payment = await _insert(tx, request, booking.amount, now)
    return Opened(replace(booking, payment_state=PaymentState.PROCESSING), payment, timedelta(), fresh=True)


def _repeated(booking: Booking, known: Payment, request: PaymentRequest, now: datetime) -> Opened:
    if known.request_hash != request.request_hash:
        raise IdempotencyKeyReused
    told = replace(booking, payment_state=payment_state(known.state))
    return Opened(told, known, now - known.create_time, fresh=False)


def _check_payable(booking: Booking, earlier: Any, now: datetime) -> None:
    if any(payment.state == "INTENT" for payment in earlier):
        raise IdempotencyInProgress("Another payment of this booking is running.")
    if booking.state is BookingState.EXPIRED:
        raise BookingExpired
    if booking.state is not BookingState.RESERVED:
        raise BookingNotPayable
    if booking.expire_time <= now:
        raise BookingExpired


async def _lengthen(tx: Transaction, booking: Booking, until: datetime, now: datetime) -> Booking:
    if booking.expire_time >= until:
        return booking
    await tx.execute(
        "UPDATE bookings SET expire_time = %s, update_time = %s WHERE booking_id = %s",
        (to_naive(until), to_naive(now), booking.booking_id),
    )
    return replace(booking, expire_time=until)


async def _insert(tx: Transaction, request: PaymentRequest, amount: Money, now: datetime) -> Payment:
    time = to_naive(now)
    row = (request.booking_id, request.provider_key, request.request_hash, to_decimal(amount), amount.currency)
    await tx.execute(_INSERT, (*row, "INTENT", time, time, request.idempotency_key, request.provider))
    return Payment(tx.last_id, request.booking_id, request.provider_key, request.request_hash, amount, "INTENT", now)


async def close_payment(tx: Transaction, payment: Payment, outcome: Outcome) -> Booking:
    """Writes what the provider said, and with it what becomes of the booking; returns the booking as it is now.

    Captured: CONFIRMED if the booking has its tickets, or if all of them are available again; else the money is due
    back. A payment that was closed before is left as it is.
    """
    booking = await lock_booking(tx, payment.booking_id)
    state = await _lock_payment(tx, payment)
    if state != "INTENT":
        return replace(booking, payment_state=payment_state(state))
    now = await utc_now(tx)
    if outcome is Outcome.DECLINED:
        await _set_state(tx, payment, "DECLINED", now)
        return replace(booking, payment_state=PaymentState.DECLINED)
    if not await _may_have_tickets(tx, booking):
        await _set_state(tx, payment, "REFUND_DUE", now)
        return replace(booking, payment_state=PaymentState.PROCESSING)
    await _set_state(tx, payment, "CAPTURED", now)
    return await _confirm(tx, booking, now)


async def _may_have_tickets(tx: Transaction, booking: Booking) -> bool:
    if not booking.state.may_become(BookingState.CONFIRMED):
        return False
    rows = await tx.fetch_all(*with_lists(_LOCK_TICKETS, booking.ticket_ids))
    owner = booking.booking_id if booking.state is BookingState.RESERVED else None
    return [found for (found,) in rows] == [owner] * len(booking.seat_indexes)


async def _confirm(tx: Transaction, booking: Booking, now: datetime) -> Booking:
    sold = await tx.execute(*with_lists(_SELL, booking.booking_id, booking.ticket_ids))
    if sold != len(booking.seat_indexes):
        raise LedgerBroken("a ticket that was paid for could not be given")
    await tx.execute(
        "UPDATE bookings SET state = 'CONFIRMED', update_time = %s WHERE booking_id = %s",
        (to_naive(now), booking.booking_id),
    )
    confirmed = replace(booking, state=BookingState.CONFIRMED, payment_state=PaymentState.PAID)
    await facts.put(tx, [confirmed], now)
    return confirmed


async def close_refund(tx: Transaction, payment: Payment) -> Booking:
    """Writes that the money went back: the booking is REFUNDED, unless another payment of it was good."""
    booking = await lock_booking(tx, payment.booking_id)
    state = await _lock_payment(tx, payment)
    if state != "REFUND_DUE":
        return replace(booking, payment_state=payment_state(state))
    now = await utc_now(tx)
    await _set_state(tx, payment, "REFUNDED", now)
    if booking.state in {BookingState.CONFIRMED, BookingState.REFUNDED}:
        return booking
    (refunded,) = await release(tx, [booking], BookingState.REFUNDED, now)
    return replace(refunded, payment_state=PaymentState.REFUNDED)


async def claim_unfinished(tx: Transaction, idle: timedelta, most: int) -> list[Payment]:
    """Payments that nobody has touched for `idle` and that are not at their end; nobody else gets them for as long."""
    now = await utc_now(tx)
    claimed = [_to_payment(row) for row in await tx.fetch_all(_CLAIM, (to_naive(now - idle), most))]
    if claimed:
        ids = [payment.payment_id for payment in claimed]
        await tx.execute(*with_lists(_TOUCH, to_naive(now), ids))
    return claimed


async def _payments_of(tx: Transaction, booking_id: str) -> dict[str, Payment]:
    rows = await tx.fetch_all(
        f"SELECT idempotency_key, {_COLUMNS} FROM payments WHERE booking_id = %s",  # noqa: S608 - constants only
        (booking_id,),
    )
    return {key: _to_payment(row) for key, *row in rows}


async def _lock_payment(tx: Transaction, payment: Payment) -> str:
    row = await tx.fetch_one("SELECT state FROM payments WHERE payment_id = %s FOR UPDATE", (payment.payment_id,))
    if row is None:
        raise LedgerBroken("a payment that was written is gone")
    return str(row[0])


async def _set_state(tx: Transaction, payment: Payment, state: str, now: datetime) -> None:
    await tx.execute(
        "UPDATE payments SET state = %s, update_time = %s WHERE payment_id = %s",
        (state, to_naive(now), payment.payment_id),
    )


def _to_payment(row: Sequence[Any]) -> Payment:
    payment_id, booking_id, provider_key, request_hash, amount, currency, state, create_time = row
    money = to_money(amount, currency)
    return Payment(payment_id, booking_id, provider_key, request_hash, money, state, to_aware(create_time))
