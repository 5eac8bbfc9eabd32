"""The outbox: what commits leaves, in order, at least once, through one relay at a time."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from services.common import outbox
from services.common.eventlog import EventLog, EventLogUnavailable, EventLogWriter, Record, open_event_log
from services.common.eventlog.port import Entry
from services.common.mysql import Database, LockedSession, open_database
from services.common.outbox import OUTBOX_DDL, Relay
from tests.support import eventually

SOON = timedelta(seconds=15)


@pytest.fixture
async def database(mysql_url_factory: Callable[[str], str]) -> AsyncIterator[Database]:
    async with open_database(mysql_url_factory("outbox")) as opened:
        async with opened.transaction() as tx:
            await tx.execute(OUTBOX_DDL)
        yield opened


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics({"facts": 3})
        yield opened


@pytest.fixture
async def writer(log: EventLog) -> AsyncIterator[EventLogWriter]:
    async with log.writer() as opened:
        yield opened


async def _put(database: Database, *numbers: int, key: str = "event") -> None:
    async with database.transaction() as tx:
        for number in numbers:
            await outbox.put(tx, "facts", key, str(number).encode(), {"traceparent": f"00-{number}"})


async def _left(database: Database) -> int:
    async with database.transaction() as tx:
        return len(await tx.fetch_all("SELECT id FROM outbox"))


async def _published(log: EventLog) -> list[Record]:
    records: list[Record] = []
    async with log.reader(uuid.uuid4().hex, ["facts"]) as reader:
        while found := await reader.read(500, timedelta(milliseconds=50)):
            records += found
    return records


async def _numbers(log: EventLog) -> list[int]:
    return [int(record.value) for record in await _published(log)]


@asynccontextmanager
async def _running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_commits_leaves_in_order_and_what_does_not_stays_unsaid(
    database: Database, log: EventLog, writer: EventLogWriter
) -> None:
    async with _running(Relay(database, writer)):
        await _put(database, 1, 2)
        await _roll_back(database)
        await _put(database, 3)
        await eventually(lambda: _is_empty(database), SOON)
    records = await _published(log)
    assert [(int(r.value), r.key, r.headers) for r in records] == [
        (number, "event", {"traceparent": f"00-{number}"}) for number in (1, 2, 3)
    ]


async def _roll_back(database: Database) -> None:
    with suppress(ZeroDivisionError):
        async with database.transaction() as tx:
            await outbox.put(tx, "facts", "event", b"99")
            raise ZeroDivisionError


async def _is_empty(database: Database) -> bool:
    return await _left(database) == 0


async def test_more_than_a_batch_leaves_in_order(
    database: Database, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 7)
    await _put(database, *range(50))
    async with _running(Relay(database, writer)):
        await eventually(lambda: _is_empty(database), SOON)
    assert await _numbers(log) == list(range(50))


async def test_a_nudge_is_faster_than_the_idle_look(
    database: Database, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "IDLE", timedelta(seconds=60))
    relay = _Watched(database, writer)
    async with _running(relay):
        await eventually(lambda: relay.waiting, SOON)
        looks = relay.looks
        await _put(database, 1)
        for _ in range(5):  # A relay that looked would have looked by now.
            assert await _left(database) == 1
        assert (relay.looks, relay.waiting) == (looks, True)
        relay.nudge()
        await eventually(lambda: _is_empty(database), SOON)
        assert relay.looks == looks + 1
    assert await _numbers(log) == [1]


class _Watched(Relay):
    """Tells how often it has looked, and whether it waits."""

    looks = 0
    waiting = False

    async def publish_batch(self, session: LockedSession) -> int:
        self.looks += 1
        return await super().publish_batch(session)

    async def _wait_for_work(self) -> None:
        self.waiting = True
        try:
            await super()._wait_for_work()
        finally:
            self.waiting = False


async def test_a_row_that_becomes_visible_behind_a_later_id_is_not_lost(
    database: Database, log: EventLog, writer: EventLogWriter
) -> None:
    async with _running(Relay(database, writer)):
        async with database.transaction() as slow:
            await outbox.put(slow, "facts", "slow", b"1")
            await _put(database, 2, key="fast")
            await eventually(lambda: _has(log, [2]), SOON)
        await eventually(lambda: _has(log, [1, 2]), SOON)


async def _has(log: EventLog, numbers: Sequence[int]) -> bool:
    return sorted(await _numbers(log)) == list(numbers)


class _Failing:
    """A writer that fails, before or after the log has taken the records."""

    def __init__(self, writer: EventLogWriter, failures: int, *, after: bool) -> None:
        self._writer = writer
        self._failures = failures
        self._after = after

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self.append_many(topic, [(key, value, headers or {})])

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        failing, self._failures = self._failures > 0, self._failures - 1
        if self._after or not failing:
            await self._writer.append_many(topic, entries)
        if failing:
            raise EventLogUnavailable


@pytest.mark.parametrize("after", [False, True])
async def test_an_outage_of_the_log_is_waited_out(
    database: Database, log: EventLog, writer: EventLogWriter, after: bool
) -> None:
    await _put(database, 1, 2, 3)
    async with _running(Relay(database, _Failing(writer, 2, after=after))):
        await eventually(lambda: _is_empty(database), SOON)
    assert await _numbers(log) == [1, 2, 3] * (3 if after else 1)


async def test_a_crash_between_publishing_and_deleting_repeats_and_loses_nothing(
    database: Database, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise SystemError

    await _put(database, 1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Relay, "_delete", crash)
        with pytest.raises(SystemError):
            await Relay(database, writer).run()
    await _put(database, 4)
    async with _running(Relay(database, writer)):
        await eventually(lambda: _is_empty(database), SOON)
    assert await _numbers(log) == [1, 2, 3, 1, 2, 3, 4]


class _Counting(_Failing):
    """Tells which relay wrote."""

    def __init__(self, writer: EventLogWriter) -> None:
        super().__init__(writer, 0, after=False)
        self.written = 0

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        self.written += len(entries)
        await super().append_many(topic, entries)


async def test_of_two_relays_one_works_and_the_other_takes_over(
    database: Database, log: EventLog, writer: EventLogWriter
) -> None:
    first, second = _Counting(writer), _Counting(writer)
    async with _running(Relay(database, first)):
        await _put(database, 0)
        await eventually(lambda: _is_empty(database), SOON)
        async with _running(Relay(database, second)):
            for number in range(1, 10):
                await _put(database, number)
            await eventually(lambda: _is_empty(database), SOON)
            assert (first.written, second.written) == (10, 0)
            await _kill_the_holder(database)
            await _put(database, 10)
            await eventually(lambda: _is_empty(database), SOON)
            assert (first.written, second.written) == (10, 1)
    assert await _numbers(log) == list(range(11))


async def _kill_the_holder(database: Database) -> None:
    async with database.transaction() as tx:
        [(number,)] = await tx.fetch_all("SELECT IS_USED_LOCK(%s)", (f"{database.name}:outbox",))
        await tx.execute(f"KILL {number}")


async def test_control_two_relays_without_the_lock_publish_twice(
    database: Database, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Database.locked
    monkeypatch.setattr(Database, "locked", lambda self, _name, wait: locked(self, uuid.uuid4().hex, wait))
    both, wait_for_both = asyncio.Barrier(2), True

    class Together(_Counting):
        async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
            if wait_for_both:
                await both.wait()
            await super().append_many(topic, entries)

    await _put(database, 1, 2, 3)
    async with _running(Relay(database, Together(writer))), _running(Relay(database, Together(writer))):
        await eventually(lambda: _is_empty(database), SOON)
        wait_for_both = False
    assert sorted(await _numbers(log)) == [1, 1, 2, 2, 3, 3]
