"""How values of the domain are written as rows of MySQL, and read back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from services.inventory.domain import Booking, BookingState, Money, PaymentState

# Decimal places of the currencies that have other than two, of ISO 4217.
_MINOR_DIGITS = {"KRW": 0, "JPY": 0, "VND": 0}

BOOKING_COLUMNS = (
    "booking_id, event_id, user_id, state, seat_indexes, amount, currency, request_hash, expire_time, create_time, "
    "traceparent"
)

# REFUND_DUE is PROCESSING for the buyer: the money is still on its way.
_PAYMENT_STATES = {
    None: PaymentState.NONE,
    "INTENT": PaymentState.PROCESSING,
    "CAPTURED": PaymentState.PAID,
    "DECLINED": PaymentState.DECLINED,
    "REFUND_DUE": PaymentState.PROCESSING,
    "REFUNDED": PaymentState.REFUNDED,
}


def to_decimal(money: Money) -> Decimal:
    """The amount in units of its currency, as the ledger stores it."""
    return Decimal(money.amount).scaleb(-_MINOR_DIGITS.get(money.currency, 2))


def to_money(amount: Decimal, currency: str) -> Money:
    """The stored amount in minor units."""
    return Money(int(amount.scaleb(_MINOR_DIGITS.get(currency, 2))), currency)


def to_naive(time: datetime) -> datetime:
    """The time as a DATETIME of the ledger, which are all UTC."""
    return time.astimezone(UTC).replace(tzinfo=None)


def to_aware(time: datetime) -> datetime:
    """A DATETIME of the ledger as a time."""
    return time.replace(tzinfo=UTC)


def payment_state(stored: str | None) -> PaymentState:
    """What the buyer is told about a payment in this state."""
    return _PAYMENT_STATES[stored]


def to_booking(row: tuple[Any, ...]) -> Booking:
    """A row of BOOKING_COLUMNS, with the state of its payment behind if that was read too."""
    (booking_id, event_id, user_id, state, seats, amount, currency, request_hash, expire, create, trace, *paid) = row
    return Booking(
        booking_id=booking_id,
        event_id=event_id,
        user_id=user_id,
        state=BookingState[state],
        seat_indexes=tuple(int(index) for index in seats.split(",")),
        amount=to_money(amount, currency),
        request_hash=request_hash,
        expire_time=to_aware(expire),
        create_time=to_aware(create),
        traceparent=trace,
        payment_state=payment_state(paid[0] if paid else None),
    )


def to_row(booking: Booking) -> tuple[Any, ...]:
    """The booking as BOOKING_COLUMNS."""
    return (
        booking.booking_id,
        booking.event_id,
        booking.user_id,
        booking.state.name,
        ",".join(str(index) for index in booking.seat_indexes),
        to_decimal(booking.amount),
        booking.amount.currency,
        booking.request_hash,
        to_naive(booking.expire_time),
        to_naive(booking.create_time),
        booking.traceparent,
    )


def with_lists(sql: str, *args: Any) -> tuple[str, list[Any]]:
    """The statement with `IN %s` spelled out for each argument that is a list, and the flat arguments.

    The driver is giving up doing this itself. No list may be empty.
    """
    parts = sql.split("%s")
    assert len(parts) == len(args) + 1, "one argument per placeholder"
    spelled = [_spell(arg) for arg in args]
    text = parts[0] + "".join(marks + part for (marks, _), part in zip(spelled, parts[1:], strict=True))
    return text, [value for _, values in spelled for value in values]


def _spell(arg: Any) -> tuple[str, Sequence[Any]]:
    if isinstance(arg, list):
        return f"({', '.join(['%s'] * len(arg))})", arg
    return "%s", [arg]
