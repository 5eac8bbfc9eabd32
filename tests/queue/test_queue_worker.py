"""What queue hears from inventory, and the pace of its loops."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from boxoffice.inventory.v1 import booking_events_pb2 as pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from services.common.cancellation import cancel
from services.common.eventlog import EventLogUnavailable, Record, open_event_log
from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS, SALE_PROGRESS
from services.queue.failures import Failures
from services.queue.line.domain import PlaceState
from services.queue.line.keys import line_key
from services.queue.line.store import LineStore
from services.queue.line.transitions import FactKind
from services.queue.worker import Build, every, handle_records, listen
from tests.queue.lines import EVENT, build, join, state, store_of, tick
from tests.queue.neighbours import stamp
from tests.support import eventually


def _booking(*states: "booking_pb.Booking.State.ValueType") -> Record:
    now = stamp(datetime.now(UTC))
    facts = [pb.BookingEvent(event_id=EVENT, user_id=1, state=state, time=now) for state in states]
    return Record(BOOKING_EVENTS, str(EVENT), pb.BookingEvents(events=facts).SerializeToString())


async def _nothing_to_build(event_id: int) -> None:
    raise AssertionError(event_id)


async def _handle(store: LineStore, records: list[Record], build: Build = _nothing_to_build) -> None:
    await handle_records(store, records, build, Failures("test"))


async def test_only_a_confirmed_booking_ends_a_place(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)
    others = set(booking_pb.Booking.State.values()) - {booking_pb.Booking.STATE_CONFIRMED}

    await _handle(store, [_booking(*others)])
    assert await state(store, 1) is PlaceState.ADMITTED

    await _handle(store, [_booking(booking_pb.Booking.STATE_RESERVED, booking_pb.Booking.STATE_CONFIRMED)])
    assert await state(store, 1) is PlaceState.DONE


async def test_a_purchase_that_is_heard_while_its_line_is_lost_counts_when_it_is_there_again(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)
    name = line_key(EVENT, "line")
    lost: Any = await redis.dump(name)
    await redis.delete(name)

    async def rebuilt(event_id: int) -> None:
        assert event_id == EVENT
        await redis.restore(name, 0, lost)

    await _handle(store, [_booking(booking_pb.Booking.STATE_CONFIRMED)], rebuilt)

    assert await state(store, 1) is PlaceState.DONE
    facts = await store.unpublished(EVENT, 10)
    assert [fact.kind for fact in facts] == [FactKind.CALLED, FactKind.ADMITTED, FactKind.DONE]


async def test_a_purchase_of_a_line_that_cannot_be_built_is_handled_again(redis: Redis) -> None:
    async def away(_event_id: int) -> None:
        raise EventLogUnavailable

    with pytest.raises(EventLogUnavailable):
        await _handle(store_of(redis), [_booking(booking_pb.Booking.STATE_CONFIRMED)], away)


async def test_a_damaged_record_changes_nothing_and_says_so(redis: Redis) -> None:
    store = store_of(redis)
    await build(redis)
    progress = pb.SaleProgress(event_id=EVENT, seats_total=5, seats_left=4, time=stamp(datetime.now(UTC)))
    good = Record(SALE_PROGRESS, str(EVENT), progress.SerializeToString())

    with pytest.raises(DecodeError):
        await _handle(store, [good, Record(BOOKING_EVENTS, str(EVENT), b"\xff")])
    assert (await store.read(EVENT, 1))[0].seats_left is None
    await _handle(store, [good, good])
    assert (await store.read(EVENT, 1))[0].seats_left == 4


async def test_it_makes_its_topics(redis: Redis, redis_url: str) -> None:
    async with open_event_log(redis_url) as log:
        listening = asyncio.create_task(listen(log, store_of(redis), _nothing_to_build))

        async def all_exist() -> bool:
            try:
                return [await log.lag("queue", topic) for topic in (BOOKING_EVENTS, SALE_PROGRESS, QUEUE_EVENTS)] == [
                    0
                ] * 3
            except EventLogUnavailable:
                return False

        assert await eventually(all_exist)
        await cancel([listening])


async def test_a_loop_keeps_its_pace_through_failures(caplog: pytest.LogCaptureFixture) -> None:
    steps = 0
    enough = asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            enough.set()
        if steps < 4:
            raise ConnectionError

    with caplog.at_level("INFO"):
        loop = asyncio.create_task(every(timedelta(milliseconds=1), step, "test"))
        await asyncio.wait_for(enough.wait(), 5)
        loop.cancel()

    assert [record.message for record in caplog.records] == ["step failed, and is repeated", "step succeeds again"]
