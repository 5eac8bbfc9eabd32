"""The handler table: which facts of which topics people are told about."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from math import ceil

from boxoffice.inventory.v1 import booking_events_pb2, booking_service_pb2
from boxoffice.queue.v1 import queue_events_pb2

from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS
from services.notify.domain import Fact, Kind, UserId

CONFIRMATION_HELPS_FOR = timedelta(hours=24)  # the ticket itself is in the account; the message only says so


def _called(event: queue_events_pb2.QueueEvent, traceparent: str) -> Fact:
    place = event.place_called
    called, claim_until = event.time.ToDatetime(UTC), place.claim_expire_time.ToDatetime(UTC)
    return Fact(
        fact_id=event.id,
        kind=Kind.PLACE_CALLED,
        time=called,
        user_id=UserId(place.user_id),
        event_id=event.event_id,
        stale_time=claim_until,
        details={"minutes": str(max(1, ceil((claim_until - called) / timedelta(minutes=1))))},
        traceparent=traceparent,
    )


def _confirmed(event: booking_events_pb2.BookingEvent) -> Fact:
    committed: datetime = event.time.ToDatetime(UTC)
    return Fact(
        fact_id=event.id,
        kind=Kind.BOOKING_CONFIRMED,
        time=committed,
        user_id=UserId(event.user_id),
        event_id=event.event_id,
        stale_time=committed + CONFIRMATION_HELPS_FOR,
        details={"booking_id": event.booking_id, "ticket_count": str(event.ticket_count)},
        traceparent=event.traceparent,
    )


def _queue_facts(value: bytes, traceparent: str) -> Iterator[tuple[Fact, bytes]]:
    for event in queue_events_pb2.QueueEvents.FromString(value).events:
        if event.WhichOneof("fact") == "place_called":
            yield _called(event, traceparent), queue_events_pb2.QueueEvents(events=[event]).SerializeToString()


def _booking_facts(value: bytes, _traceparent: str) -> Iterator[tuple[Fact, bytes]]:
    for event in booking_events_pb2.BookingEvents.FromString(value).events:
        if event.state == booking_service_pb2.Booking.STATE_CONFIRMED:
            yield _confirmed(event), booking_events_pb2.BookingEvents(events=[event]).SerializeToString()


_HANDLERS: Mapping[str, Callable[[bytes, str], Iterator[tuple[Fact, bytes]]]] = {
    QUEUE_EVENTS: _queue_facts,
    BOOKING_EVENTS: _booking_facts,
}

TOPICS = tuple(_HANDLERS)


def facts_in(topic: str, value: bytes, traceparent: str) -> Iterator[tuple[Fact, bytes]]:
    """The facts of a record that someone is told about, each with a record of the topic that holds it alone.

    Raises:
        google.protobuf.message.DecodeError: the record is not one of its topic.
    """
    return _HANDLERS[topic](value, traceparent)
