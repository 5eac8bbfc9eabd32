"""Consuming: outages are waited out, poison is put aside, and nothing is lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import grpc
import pymysql
import pytest
import redis.exceptions
from google.protobuf.message import DecodeError

from services.common.eventlog import EventLog, EventLogUnavailable, Poison, Record, consume, open_event_log, replay
from services.common.eventlog.consumer import ATTEMPTS, is_outage, is_poison
from services.common.eventlog.topics import (
    BOOKING_COMMANDS,
    BOOKING_EVENTS,
    QUEUE_DRAWS,
    QUEUE_EVENTS,
    QUEUE_LINES,
    SALE_PROGRESS,
    TOPICS,
    dead,
)
from services.common.mysql import DatabaseUnavailable, TransactionConflict
from tests.support import eventually

SOON = timedelta(seconds=15)
GROUP = "group"
Handler = Callable[[list[Record]], Awaitable[None]]


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics({"facts": 3, dead("facts"): 3})
        yield opened


@asynccontextmanager
async def _consuming(log: EventLog, handle: Handler) -> AsyncIterator[None]:
    task = asyncio.create_task(consume(log, GROUP, ["facts"], handle))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _append(log: EventLog, *values: bytes) -> None:
    async with log.writer() as writer:
        await writer.append_many("facts", [("key", value, {"traceparent": "00-1"}) for value in values])


async def _all(log: EventLog, topic: str) -> list[Record]:
    records: list[Record] = []
    async with log.reader(uuid.uuid4().hex, [topic]) as reader:
        while found := await reader.read(500, timedelta(milliseconds=50)):
            records += found
    return records


async def _done(log: EventLog) -> bool:
    return await log.lag(GROUP, "facts") == 0


class _Handled:
    """A handler that fails for some values, and remembers what it could do."""

    def __init__(self, failures: dict[bytes, list[Exception]]) -> None:
        self._failures = failures
        self.values: list[bytes] = []
        self.calls = 0

    async def __call__(self, records: list[Record]) -> None:
        self.calls += 1
        for record in records:
            if failures := self._failures.get(record.value):
                raise failures.pop(0)
        self.values += [record.value for record in records]


async def test_handled_records_are_committed(log: EventLog) -> None:
    await _append(log, b"1", b"2", b"3")
    handled = _Handled({})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
        await _append(log, b"4")
        await eventually(lambda: _done(log), SOON)
    assert handled.values == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "error", [Poison("no"), ValueError("secret"), DecodeError("bad")], ids=lambda e: type(e).__name__
)
async def test_poison_is_put_aside_and_the_others_go_on(log: EventLog, error: Exception) -> None:
    await _append(log, b"1", b"bad", b"2")
    handled = _Handled({b"bad": [error] * 2})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
    assert handled.values == [b"1", b"2"]
    [record] = await _all(log, dead("facts"))
    [_, original, _] = await _all(log, "facts")
    assert (record.key, record.value) == ("key", b"bad")
    assert record.headers == {
        "traceparent": "00-1",
        "dead-group": GROUP,
        "dead-topic": "facts",
        "dead-partition": str(original.partition),
        "dead-offset": original.offset,
        "dead-error": type(error).__name__,
    }


async def test_an_error_that_may_pass_is_tried_again_before_the_record_is_put_aside(log: EventLog) -> None:
    await _append(log, b"passes", b"stays")
    handled = _Handled({b"passes": [RuntimeError()] * ATTEMPTS, b"stays": [RuntimeError()] * 99})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
    assert handled.values == [b"passes"]
    assert [record.value for record in await _all(log, dead("facts"))] == [b"stays"]


OUTAGES = [
    EventLogUnavailable(),
    DatabaseUnavailable(),
    TransactionConflict(),
    redis.exceptions.ConnectionError(),
    redis.exceptions.BusyLoadingError(),
    TimeoutError(),
    ConnectionResetError(),
]


async def test_outages_are_waited_out_and_never_put_aside(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.eventlog.backoff.random.uniform", lambda *_: 0.0)
    await _append(log, b"1", b"2")
    handled = _Handled({b"2": OUTAGES * 2})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
    assert handled.values == [b"1", b"2"]
    assert handled.calls == len(OUTAGES) * 2 + 1
    assert await _all(log, dead("facts")) == []


async def test_an_outage_while_records_are_taken_one_by_one_is_waited_out_too(log: EventLog) -> None:
    await _append(log, b"bad", b"1")
    handled = _Handled({b"bad": [Poison(), Poison()], b"1": [DatabaseUnavailable(), DatabaseUnavailable()]})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
    assert handled.values == [b"1"]
    assert [record.value for record in await _all(log, dead("facts"))] == [b"bad"]


async def test_what_was_put_aside_can_be_replayed(log: EventLog) -> None:
    await _append(log, b"bad-1", b"1", b"bad-2")
    handled = _Handled({b"bad-1": [Poison()] * 2, b"bad-2": [Poison()]})
    async with _consuming(log, handled):
        await eventually(lambda: _done(log), SOON)
        assert await replay(log, "facts") == 2
        await eventually(lambda: _done(log), SOON)
        assert await replay(log, "facts") == 0
    assert handled.values == [b"1", b"bad-1", b"bad-2"]
    assert {tuple(record.headers) for record in await _all(log, "facts")} == {("traceparent",)}


def test_what_is_away_and_what_is_poison_are_told_apart() -> None:
    unavailable = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
    denied = grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), grpc.aio.Metadata())
    for error in (*OUTAGES, unavailable):
        assert is_outage(error), error
        assert not is_poison(error), error
    for error in (Poison(), ValueError(), UnicodeDecodeError("utf-8", b"", 0, 1, ""), DecodeError()):
        assert is_poison(error), error
        assert not is_outage(error), error
    mistakes = (
        redis.exceptions.ResponseError(),
        pymysql.err.ProgrammingError(),
        pymysql.err.OperationalError(1054, "unknown column"),
        FileNotFoundError(),
    )
    for error in (denied, RuntimeError(), KeyError(), *mistakes):
        assert not is_outage(error), error
        assert not is_poison(error), error


def test_every_topic_has_a_dead_letter_topic_of_its_size() -> None:
    live = {name: count for name, count in TOPICS.items() if not name.endswith(".dead")}
    assert {BOOKING_COMMANDS, BOOKING_EVENTS, SALE_PROGRESS, QUEUE_EVENTS, QUEUE_DRAWS, QUEUE_LINES} == live.keys()
    assert {dead(name): count for name, count in live.items()} == {
        name: count for name, count in TOPICS.items() if name.endswith(".dead")
    }
