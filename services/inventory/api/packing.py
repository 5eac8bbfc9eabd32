"""Between the messages of the contract and the values of the domain."""

import base64
import json
from datetime import UTC, datetime
from typing import Any, Final

from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from boxoffice.inventory.v1 import event_service_pb2 as event_pb
from boxoffice.inventory.v1 import money_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidArgument
from services.inventory.catalog import Sale
from services.inventory.domain import Booking, Money, SaleEvent
from services.inventory.holds import HoldOutcome
from services.inventory.seatmap import Row, SeatMap, Section
from services.inventory.wishes import Wish

_DEFAULT_PAGE: Final = 20
_LARGEST_PAGE: Final = 100
# Ours have some 80 characters. JSON of any length can be nested more deeply than its parser bears.
_LONGEST_TOKEN: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAR_FUTURE: Final = datetime(9000, 1, 1, tzinfo=UTC)
_IDS: Final = range(1 << 63)


def stamp(time: datetime) -> Timestamp:
    """A time as the contract has it."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def money(value: Money) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(amount=value.amount, currency=value.currency)


def wish(request: booking_pb.ReserveRequest, user_id: int, traceparent: str) -> Wish:
    """What a reservation asks for."""
    best = request.best_available
    if request.HasField("best_available") and best.quantity <= 0:
        raise InvalidArgument("best_available.quantity", "at least one ticket is needed")
    return Wish(
        user_id=user_id,
        event_id=request.event_id,
        ticket_ids=tuple(request.ticket_ids),
        quantity=best.quantity,
        section=best.section,
        idempotency_key=request.idempotency_key,
        admission_token=request.admission_token,
        traceparent=traceparent,
    )


def reserve_response(outcome: HoldOutcome) -> booking_pb.ReserveResponse:
    """The answer to a reservation."""
    held = outcome.booking
    return booking_pb.ReserveResponse(
        booking_id=held.booking_id,
        status=booking_pb.Booking.State.ValueType(held.state),
        ticket_ids=held.ticket_ids,
        amount=money(held.amount),
        expires_at=stamp(held.expire_time),
        replayed=outcome.repeat,
    )


def booking(value: Booking) -> booking_pb.Booking:
    """A booking."""
    return booking_pb.Booking(
        booking_id=value.booking_id,
        event_id=value.event_id,
        state=booking_pb.Booking.State.ValueType(value.state),
        ticket_ids=value.ticket_ids,
        amount=money(value.amount),
        expire_time=stamp(value.expire_time),
        payment_state=booking_pb.Booking.PaymentState.ValueType(value.payment_state),
        create_time=stamp(value.create_time),
    )


def event(sale: Sale, now: datetime) -> event_pb.Event:
    """An event."""
    value = sale.event
    return event_pb.Event(
        event_id=value.event_id,
        name=value.name,
        venue=value.venue,
        start_time=stamp(value.start_time),
        sale_open_time=stamp(value.sale_open_time),
        sale_close_time=stamp(value.sale_close_time),
        sale_state=_sale_state(value, now),
        seats_total=value.seats_total,
        tickets_per_person=value.tickets_per_person,
        seat_map_version=value.seat_map_version,
        price_from=money(Money(sale.seat_map.price_from, value.currency)),
    )


def _sale_state(value: SaleEvent, now: datetime) -> event_pb.Event.SaleState.ValueType:
    if now < value.sale_open_time:
        return event_pb.Event.SALE_STATE_SCHEDULED
    return event_pb.Event.SALE_STATE_OPEN if now < value.sale_close_time else event_pb.Event.SALE_STATE_CLOSED


def seat_map(value: SeatMap, currency: str) -> event_pb.SeatMap:
    """A seat map."""
    return event_pb.SeatMap(
        version=value.version,
        name=value.name,
        sections=[_section(section) for section in value.sections],
        price_tiers=[
            event_pb.PriceTier(price_tier_id=tier.tier_id, name=tier.name, price=money(Money(tier.price, currency)))
            for tier in value.tiers
        ],
        seats_total=value.seats_total,
    )


def _section(value: Section) -> event_pb.Section:
    return event_pb.Section(
        section_id=value.section_id,
        name=value.name,
        price_tier_id=value.tier.tier_id,
        first_index=value.first_index,
        rows=[] if value.standing else [_row(row) for row in value.rows],
        standing_capacity=value.seat_count if value.standing else 0,
    )


def _row(value: Row) -> event_pb.Row:
    return event_pb.Row(
        name=value.name,
        first_index=value.first_index,
        seat_count=value.seat_count,
        accessible_indexes=value.accessible_indexes,
    )


def page_size(asked: int) -> int:
    """The size of a page. Raises InvalidArgument outside of 1 to 100; 0 means unset."""
    if not 0 <= asked <= _LARGEST_PAGE:
        raise InvalidArgument("page_size", f"1 to {_LARGEST_PAGE}")
    return asked or _DEFAULT_PAGE


def page_token(time: datetime, last_id: int | str) -> str:
    """Where a page ended."""
    return base64.urlsafe_b64encode(json.dumps([time.isoformat(), last_id]).encode()).decode()


def parse_page_token(token: str, id_type: type) -> tuple[datetime, Any] | None:
    """Where the page before ended; None for an empty token.

    Raises InvalidArgument for what `page_token` did not make.
    """
    if not token:
        return None
    if len(token) <= _LONGEST_TOKEN:
        try:
            time, last_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
            moment = datetime.fromisoformat(time)
            known = _EPOCH <= moment < _FAR_FUTURE and type(last_id) is id_type and _possible(last_id)
        except (ValueError, TypeError):
            known = False
        if known:
            return moment, last_id
    raise InvalidArgument("page_token", "not a token of an earlier page")


def _possible(last_id: Any) -> bool:
    return last_id in _IDS if isinstance(last_id, int) else last_id.isascii()
