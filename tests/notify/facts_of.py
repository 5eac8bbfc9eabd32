"""Records as queue and inventory write them."""

from datetime import UTC, datetime, timedelta

from boxoffice.inventory.v1 import booking_events_pb2, booking_service_pb2
from boxoffice.queue.v1 import queue_events_pb2

EVENT_ID = 42
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def called(fact_id: str, user_id: int, claim_within: timedelta = timedelta(minutes=5)) -> bytes:
    now = datetime.now(UTC)
    event = queue_events_pb2.QueueEvent(id=fact_id, event_id=EVENT_ID)
    event.time.FromDatetime(now)
    event.place_called.user_id = user_id
    event.place_called.claim_expire_time.FromDatetime(now + claim_within)
    return queue_events_pb2.QueueEvents(events=[event]).SerializeToString()


def booked(
    fact_id: str,
    user_id: int,
    state: "booking_service_pb2.Booking.State.ValueType" = booking_service_pb2.Booking.STATE_CONFIRMED,
) -> bytes:
    event = booking_events_pb2.BookingEvent(
        id=fact_id,
        event_id=EVENT_ID,
        booking_id="2a-abcdef",
        user_id=user_id,
        state=state,
        ticket_count=2,
        traceparent=TRACEPARENT,
    )
    event.time.FromDatetime(datetime.now(UTC))
    return booking_events_pb2.BookingEvents(events=[event]).SerializeToString()
