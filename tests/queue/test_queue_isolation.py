"""One event's failure stops no other event: not its calls, nor the telling of them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from boxoffice.queue.v1 import queue_events_pb2 as pb
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.common.cancellation import cancel
from services.common.eventlog import EventLog, open_event_log
from services.common.eventlog.topics import QUEUE_EVENTS, TOPICS
from services.queue.admission.loop import AdmissionLoop
from services.queue.admission.publisher import FactPublisher
from services.queue.line.domain import Sale
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import JoinCommand, Progress
from tests.queue.lines import OPEN_SALE, store_of

BAD, GOOD = 8, 7


class _OpenSales:
    """Every event is on sale; asking takes a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    async def sale(self, _event_id: int) -> Sale:
        await asyncio.sleep(self._seconds)
        return OPEN_SALE


class _Nudged(list[int]):
    def nudge(self, event_id: int) -> None:
        self.append(event_id)


def _loop(store: LineStore, nudged: _Nudged, sales: _OpenSales) -> AdmissionLoop:
    return AdmissionLoop(store, sales, nudged, lambda *_: None)  # type: ignore[arg-type] # the methods that are used


async def _two_lines(store: LineStore) -> None:
    for event_id in (BAD, GOOD):
        await store.upkeep.activate(event_id)
        await store.join(JoinCommand(event_id, 1, OPEN_SALE))


def _failures(task: str) -> float:
    return REGISTRY.get_sample_value("boxoffice_queue_event_failures_total", {"task": task}) or 0.0


async def test_a_damaged_policy_stops_only_its_own_line(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    store, nudged, before = store_of(redis), _Nudged(), _failures("admission")
    await _two_lines(store)
    await cast("Any", redis.hset(line_key(BAD, "policy"), "rate", "oops"))
    loop = _loop(store, nudged, _OpenSales())

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await loop.tick()

    assert [len(await store.unpublished(event_id, 9)) for event_id in (BAD, GOOD)] == [0, 1]
    assert set(nudged) == {GOOD}
    assert _failures("admission") == before + 3
    assert [record.__dict__["fields"]["event_id"] for record in caplog.records] == [BAD]

    await redis.delete(line_key(BAD, "policy"))
    await loop.tick()
    assert len(await store.unpublished(BAD, 9)) == 1


async def test_a_damaged_rate_stops_no_line_and_who_is_called_is_told(redis: Redis) -> None:
    store, nudged, before = store_of(redis), _Nudged(), _failures("rate")
    await _two_lines(store)
    await cast("Any", redis.hset(line_key(BAD, "line"), "observed_rate", "oops"))

    await _loop(store, nudged, _OpenSales()).tick()

    assert [len(await store.unpublished(event_id, 9)) for event_id in (BAD, GOOD)] == [1, 1]
    assert set(nudged) == {BAD, GOOD}
    assert _failures("rate") == before + 1


async def test_a_damaged_count_of_seats_concerns_its_own_event(redis: Redis) -> None:
    store, now = store_of(redis), datetime.now(UTC)
    await redis.set(line_key(BAD, "sale"), "oops")

    failed = await store.set_progress_many([Progress(event_id, now, 10, 3, 7) for event_id in (BAD, GOOD)])

    assert failed.keys() == {BAD}
    assert await cast("Any", redis.hget(line_key(GOOD, "sale"), "seats_left")) == b"3"


async def test_the_time_of_a_tick_is_that_of_its_work(redis: Redis) -> None:
    def total() -> float:
        return REGISTRY.get_sample_value("boxoffice_queue_tick_duration_seconds_sum") or 0.0

    store, before = store_of(redis), total()
    await _two_lines(store)

    await _loop(store, _Nudged(), _OpenSales(seconds=0.05)).tick()

    assert total() - before >= 0.05


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics(TOPICS)
        yield opened


async def test_a_damaged_call_holds_up_only_those_of_its_own_event(redis: Redis, log: EventLog) -> None:
    store, before = store_of(redis), _failures("facts")
    await _two_lines(store)
    await store.admit_many({GOOD: OPEN_SALE})
    await redis.xadd(line_key(BAD, "outbox"), {"user_id": "nobody"})
    async with log.writer() as writer, log.reader("test", [QUEUE_EVENTS]) as reader:
        publisher = FactPublisher(store, writer)
        for event_id in (BAD, GOOD):
            publisher.nudge(event_id)
        running = asyncio.create_task(publisher.run())
        async with asyncio.timeout(20):
            while not (records := await reader.read(10, timedelta(seconds=1))):
                pass
        assert not running.done()
        await cancel([running])

    [fact] = pb.QueueEvents.FromString(records[0].value).events
    assert fact.event_id == GOOD
    assert _failures("facts") == before + 1
