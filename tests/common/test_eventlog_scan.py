"""Reading a topic from its beginning to its end, without a group: against a real Kafka and a real Valkey."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from services.common.eventlog import MAX_VALUE_BYTES, EventLog, EventLogUnavailable, open_event_log
from services.common.eventlog.topics import QUEUE_DRAWS, TOPICS

pytestmark = pytest.mark.parametrize("log", ["kafka", "redis"], indirect=True)


@pytest.fixture
async def log(request: pytest.FixtureRequest) -> AsyncIterator[EventLog]:
    async with open_event_log(request.getfixturevalue(f"{request.param}_url")) as opened:
        yield opened


@pytest.fixture
async def topic(log: EventLog) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await log.create_topics({name: 4})
    return name


async def _append(log: EventLog, topic: str, numbers: range) -> None:
    """Each number under one of seven keys."""
    async with log.writer() as writer:
        await writer.append_many(topic, [(f"key-{number % 7}", b"%d" % number, {"n": "1"}) for number in numbers])


async def _all(log: EventLog, topic: str, key: str | None = None, since: datetime | None = None) -> list[int]:
    return [int(record.value) async for record in log.read_all(topic, key=key, since=since)]


async def test_everything_is_read_in_order_by_key_however_often(log: EventLog, topic: str) -> None:
    await _append(log, topic, range(1_300))
    async with log.reader(topic, [topic]) as reader, asyncio.timeout(20):
        while not await reader.read(10, timedelta(seconds=1)):
            pass
        await reader.commit()
    for _ in range(2):
        records = [record async for record in log.read_all(topic)]
        assert sorted(int(record.value) for record in records) == list(range(1_300))
        for key in range(7):
            assert [int(r.value) for r in records if r.key == f"key-{key}"] == list(range(key, 1_300, 7))
    assert len({record.partition for record in records}) > 1
    assert (records[0].topic, records[0].headers) == (topic, {"n": "1"})


async def test_a_key_is_read_alone(log: EventLog, topic: str) -> None:
    await _append(log, topic, range(70))
    for key in range(7):
        assert await _all(log, topic, f"key-{key}") == list(range(key, 70, 7))
    assert await _all(log, topic, "nobody") == []


async def test_what_is_appended_meanwhile_is_left_out(log: EventLog, topic: str) -> None:
    await _append(log, topic, range(1_000))
    seen: list[int] = []
    async with asyncio.timeout(20), aclosing(log.read_all(topic)) as records:
        async for record in records:
            if not seen:
                await _append(log, topic, range(1_000, 3_000))
            seen.append(int(record.value))
    assert sorted(seen) == list(range(1_000))


async def test_an_empty_topic_ends_at_once_and_an_unknown_one_is_not_empty(log: EventLog, topic: str) -> None:
    async with asyncio.timeout(5):
        assert await _all(log, topic) == []
        assert await _all(log, topic, "key", datetime.now(UTC)) == []
    with pytest.raises(EventLogUnavailable):
        await _all(log, f"{topic}.unknown")


async def test_what_is_older_is_left_out_and_nothing_that_is_younger(log: EventLog, topic: str) -> None:
    await _append(log, topic, range(7))
    await asyncio.sleep(0.05)
    between = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await _append(log, topic, range(7, 14))
    assert sorted(await _all(log, topic, since=between)) == list(range(7, 14))
    assert await _all(log, topic, "key-3", between) == [10]
    assert sorted(await _all(log, topic, since=between - timedelta(hours=1))) == list(range(14))
    assert await _all(log, topic, since=between + timedelta(hours=1)) == []


async def test_large_values_come_whole(log: EventLog, topic: str) -> None:
    values = [os.urandom(MAX_VALUE_BYTES) for _ in range(12)]
    async with log.writer() as writer:
        for value in values:
            await writer.append(topic, "key", value)
    assert [record.value async for record in log.read_all(topic, key="key")] == values


async def test_a_reading_that_is_given_up_leaves_nothing_behind(log: EventLog, topic: str) -> None:
    await _append(log, topic, range(100))
    async with aclosing(log.read_all(topic)) as records:
        assert await anext(records)
    # A consumer or a connection that stayed open would be a warning, and warnings are errors.
    assert len(await _all(log, topic)) == 100


async def test_the_topic_of_draws_can_be_made(log: EventLog) -> None:
    await log.create_topics({QUEUE_DRAWS: TOPICS[QUEUE_DRAWS]})
    await _all(log, QUEUE_DRAWS)
