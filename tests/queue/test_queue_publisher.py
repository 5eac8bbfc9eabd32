"""Facts of the line reach the event log: none is lost, and none is told under another id."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, timedelta

import pytest
from boxoffice.queue.v1 import queue_events_pb2 as pb
from redis.asyncio import Redis

from services.common.eventlog import open_event_log
from services.common.eventlog.port import EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS, TOPICS
from services.queue.admission.publisher import FactPublisher
from services.queue.line.store import LineStore
from services.queue.line.transitions import Fact
from tests.queue.lines import EVENT, POLICY, build, called, join_all, store_of, tick


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics(TOPICS)
        yield opened


async def _told(log: EventLog) -> list[pb.QueueEvent]:
    async with log.reader("test", [QUEUE_EVENTS]) as reader:
        records = await reader.read(1000, timedelta(milliseconds=200))
    assert {record.key for record in records} <= {str(EVENT)}
    return [event for record in records for event in pb.QueueEvents.FromString(record.value).events]


async def test_a_call_outlives_a_crash_before_it_is_told(redis: Redis, other_redis: Redis, log: EventLog) -> None:
    crashed = store_of(redis)
    await join_all(crashed, (1, 2, 3))
    await tick(crashed)
    calls = await crashed.unpublished(EVENT, 10)

    # Another process finds them by its next tick, which has nobody left to call.
    survivor = store_of(other_redis)
    assert (await tick(survivor)).unpublished == 3
    async with log.writer() as writer:
        await FactPublisher(survivor, writer).publish(EVENT)

    told = await _told(log)
    assert [(fact.id, fact.place_called.user_id) for fact in told] == [(call.fact_id, call.user_id) for call in calls]
    assert [fact.place_called.claim_expire_time.ToDatetime(UTC) for fact in told] == [call.until for call in calls]
    assert (await tick(survivor)).unpublished == 0


class _CrashAfterAppend(LineStore):
    async def forget(self, event_id: int, facts: Sequence[Fact]) -> None:
        raise ConnectionError(event_id, len(facts))


async def test_a_crash_after_telling_tells_again_with_the_same_ids(redis: Redis, log: EventLog) -> None:
    await build(redis)
    crashing = _CrashAfterAppend(redis, POLICY)
    await join_all(crashing, (1, 2))
    await tick(crashing)
    async with log.writer() as writer:
        with pytest.raises(ConnectionError):
            await FactPublisher(crashing, writer).publish(EVENT)
        await FactPublisher(store_of(redis), writer).publish(EVENT)

    ids = [fact.id for fact in await _told(log)]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]


async def test_two_publishers_at_once_lose_nothing(redis: Redis, other_redis: Redis, log: EventLog) -> None:
    stores = store_of(redis), store_of(other_redis)
    await join_all(stores[0], range(1, 301))
    async with log.writer() as writer:
        publishers = [FactPublisher(store, writer) for store in stores]
        for store in stores * 2:
            await tick(store)
            await asyncio.gather(*(publisher.publish(EVENT) for publisher in publishers))

    assert {fact.place_called.user_id for fact in await _told(log)} == set(range(1, 301))
    assert await called(stores[0]) == []


class _AwayAtFirst:
    """An event log that is away for the first attempt."""

    def __init__(self, writer: EventLogWriter) -> None:
        self._writer = writer
        self.attempts = 0

    async def append(self, *record: object) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise EventLogUnavailable
        await self._writer.append(*record)  # type: ignore[arg-type] # passed on as it came


async def test_calls_wait_while_the_event_log_is_away(redis: Redis, log: EventLog) -> None:
    store = store_of(redis)
    await join_all(store, (1,))
    await tick(store)
    async with log.writer() as writer:
        flaky = _AwayAtFirst(writer)
        publisher = FactPublisher(store, flaky)  # type: ignore[arg-type] # the one method that is used
        running = asyncio.create_task(publisher.run())
        while (await tick(store)).unpublished:
            publisher.nudge(EVENT)
            await asyncio.sleep(0.01)
        running.cancel()

    assert flaky.attempts == 2
    assert [fact.place_called.user_id for fact in await _told(log)] == [1]
