"""Facts about bookings, written to the outbox in the transaction that makes them true."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb

from services.common import metrics, outbox
from services.common.eventlog import topics
from services.common.mysql import Transaction
from services.inventory.domain import Booking


async def put(tx: Transaction, bookings: Sequence[Booking], now: datetime) -> None:
    """One outbox row per event, with a fact for the state of each booking."""
    by_event: defaultdict[int, list[Booking]] = defaultdict(list)
    for booking in bookings:
        by_event[booking.event_id].append(booking)
    for event_id, members in by_event.items():
        payload = events_pb.BookingEvents(events=[_fact(booking, now) for booking in members]).SerializeToString()
        await outbox.put(tx, topics.BOOKING_EVENTS, str(event_id), payload, _headers(members))
    _count(bookings)


def _count(bookings: Sequence[Booking]) -> None:
    # Every change of state passes here once, and a redelivery never does; a repeated transaction counts again, which is
    # rare and harms no promise.
    for booking in bookings:
        metrics.BOOKINGS.labels(state=booking.state.name).inc()


def _fact(booking: Booking, now: datetime) -> events_pb.BookingEvent:
    # A booking enters a state once at most, so that the id names the fact for good.
    fact = events_pb.BookingEvent(
        id=f"{booking.booking_id}:{booking.state.name}",
        event_id=booking.event_id,
        booking_id=booking.booking_id,
        user_id=booking.user_id,
        state=booking_pb.Booking.State.Value(f"STATE_{booking.state.name}"),
        ticket_count=len(booking.seat_indexes),
        traceparent=booking.traceparent,
    )
    fact.time.FromDatetime(now)
    return fact


def _headers(bookings: Sequence[Booking]) -> dict[str, str]:
    # A record has one trace; each fact carries its own besides.
    traceparent = next((booking.traceparent for booking in bookings if booking.traceparent), "")
    return {"traceparent": traceparent} if traceparent else {}
