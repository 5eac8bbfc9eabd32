from datetime import UTC, datetime, timedelta

import pytest
from boxoffice.inventory.v1 import booking_service_pb2
from boxoffice.queue.v1 import queue_events_pb2
from google.protobuf.message import DecodeError

from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS
from services.notify.domain import Kind, Language, RetrySchedule, Unacceptable, device_token
from services.notify.facts import facts_in
from services.notify.messages import Messages
from tests.notify.facts_of import EVENT_ID, booked, called

SCHEDULE = RetrySchedule(timedelta(seconds=1), timedelta(seconds=60), max_attempts=12)


def test_pauses_double_up_to_the_longest_and_jitter_moves_half_of_them() -> None:
    assert [SCHEDULE.pause(attempt, 0).total_seconds() for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
    assert SCHEDULE.pause(3, 0.5) == timedelta(seconds=3)
    assert SCHEDULE.pause(1_000_000, 0.999) < timedelta(seconds=60)
    assert [SCHEDULE.is_last(attempt) for attempt in (11, 12, 13)] == [False, True, True]


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 513, "with space", "with/slash", "줄바꿈줄바꿈줄바꿈", "newline\n"]
)
def test_what_is_not_a_device_token_is_refused(text: str) -> None:
    with pytest.raises(Unacceptable):
        device_token(text)


@pytest.mark.parametrize("text", ["x" * 8, "x" * 512, "fcm-Token_1:APA91b.x"])
def test_device_tokens_of_all_platforms_are_taken(text: str) -> None:
    assert device_token(text) == text


def test_every_kind_of_message_exists_in_every_language_with_a_call_to_action_and_a_link() -> None:
    messages = Messages("https://boxoffice.example/")
    [(called_fact, _)] = facts_in(QUEUE_EVENTS, called("q1", 1), "")
    [(booked_fact, _)] = facts_in(BOOKING_EVENTS, booked("b1", 1), "")
    facts = {fact.kind: fact for fact in (called_fact, booked_fact)}
    assert set(facts) == set(Kind)
    for language in Language:
        for fact in facts.values():
            message = messages.write(fact, language)
            assert message.title
            assert message.body
            assert "{" not in message.title + message.body + message.call_to_action
            assert message.url.startswith(f"https://boxoffice.example/?event={EVENT_ID}")
    assert messages.write(called_fact, Language.KO).call_to_action == "지금 예매하기"
    assert messages.write(called_fact, Language.EN).call_to_action == "Book now"
    assert "5 min" in messages.write(called_fact, Language.EN).body
    assert messages.write(booked_fact, Language.EN).url.endswith("&booking=2a-abcdef")


def test_a_record_splits_into_records_of_one_fact_each() -> None:
    record = queue_events_pb2.QueueEvents.FromString(called("q1", 1) + called("q2", 2))
    record.events.add(id="q3", event_id=EVENT_ID)  # a fact of a kind that this version does not know
    record.events.add(id="q4", event_id=EVENT_ID).place_admitted.user_id = 4  # and those that nobody needs to be told
    record.events.add(id="q5", event_id=EVENT_ID).place_left.user_id = 5
    found = list(facts_in(QUEUE_EVENTS, record.SerializeToString(), "trace"))
    assert [(fact.fact_id, fact.user_id, fact.traceparent) for fact, _ in found] == [
        ("q1", 1, "trace"),
        ("q2", 2, "trace"),
    ]
    for fact, source in found:
        assert [again.fact_id for again, _ in facts_in(QUEUE_EVENTS, source, "trace")] == [fact.fact_id]


def test_only_confirmation_is_told_of_a_booking() -> None:
    states = booking_service_pb2.Booking.State.values()
    told = [state for state in states if list(facts_in(BOOKING_EVENTS, booked("b", 1, state), ""))]
    assert told == [booking_service_pb2.Booking.STATE_CONFIRMED]


def test_a_call_is_stale_when_its_claim_window_has_closed() -> None:
    [(fact, _)] = facts_in(QUEUE_EVENTS, called("q1", 1, timedelta(seconds=30)), "")
    assert abs(fact.stale_time - datetime.now(UTC) - timedelta(seconds=30)) < timedelta(seconds=5)
    assert fact.details == {"minutes": "1"}


def test_bytes_that_are_no_record_raise() -> None:
    with pytest.raises(DecodeError):
        list(facts_in(QUEUE_EVENTS, b"\xff\xff\xff", ""))
