"""What both adapters of the event log promise: each test runs against a real Kafka and a real Valkey."""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.servers import SERVERS
from deploy.local.stack import Stack, session_name
from services.common.eventlog import (
    MAX_VALUE_BYTES,
    EventLog,
    EventLogReader,
    EventLogUnavailable,
    EventLogWriter,
    Record,
    RecordTooLarge,
    open_event_log,
)
from tests.support import eventually

ROOT = Path(__file__).parents[2]
SOON = timedelta(seconds=20)
SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.parametrize("log_url", ["kafka", "redis"], indirect=True)


@pytest.fixture
def log_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(log_url) as opened:
        yield opened


@pytest.fixture
async def topic(log: EventLog) -> str:
    return await _topic(log, 4)


@pytest.fixture
async def narrow(log: EventLog) -> str:
    """A topic of one partition, so that all records have one order."""
    return await _topic(log, 1)


async def _topic(log: EventLog, partitions: int) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await log.create_topics({name: partitions, f"{name}.dead": partitions})
    return name


async def _append(log: EventLog, topic: str, count: int, first: int = 0) -> None:
    async with log.writer() as writer:
        await writer.append_many(topic, [("key", str(number).encode(), {}) for number in range(first, first + count)])


async def _read(reader: EventLogReader, count: int) -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(records) < count:
            records += await reader.read(count - len(records), SECOND)
    return records


def _numbers(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


async def test_acknowledged_records_reach_every_new_group_in_order_by_key(log: EventLog, topic: str) -> None:
    keys = [f"key-{number}" for number in range(7)]
    entries = [(keys[number % 7], str(number).encode(), {"traceparent": f"00-{number}"}) for number in range(200)]
    async with log.writer() as writer:
        await writer.append_many(topic, entries[:150])
        for key, value, headers in entries[150:]:
            await writer.append(topic, key, value, headers)
    for group in ("first", "second"):
        async with log.reader(f"{group}-{topic}", [topic]) as reader:
            records = await _read(reader, 200)
        for key in keys:
            assert [(r.value, r.headers) for r in records if r.key == key] == [e[1:] for e in entries if e[0] == key]
        assert all(record.topic == topic for record in records)
        assert len({record.partition for record in records}) > 1


async def test_concurrent_appends_of_one_task_per_key_keep_the_order_of_each_task(log: EventLog, topic: str) -> None:
    async with log.writer() as writer:

        async def write(key: str) -> None:
            for number in range(50):
                await writer.append(topic, key, str(number).encode())

        await asyncio.gather(*(write(f"key-{number}") for number in range(8)))
    async with log.reader(topic, [topic]) as reader:
        records = await _read(reader, 400)
    for number in range(8):
        assert _numbers([r for r in records if r.key == f"key-{number}"]) == list(range(50))


async def test_values_may_be_empty_or_large_and_no_larger(log: EventLog, narrow: str) -> None:
    largest = os.urandom(MAX_VALUE_BYTES)
    async with log.writer() as writer:
        await writer.append(narrow, "", b"")
        await writer.append(narrow, "Schlüssel", largest, {"Kopf": "좌석"})
        await writer.append_many(narrow, [("key", largest, {})] * 3)
        await writer.append_many(narrow, [])
        with pytest.raises(RecordTooLarge):
            await writer.append_many(narrow, [("key", b"small", {}), ("key", largest + b"!", {})])
    async with log.reader(narrow, [narrow]) as reader:
        records = await _read(reader, 5)
        assert [(r.key, r.value, r.headers) for r in records[:2]] == [
            ("", b"", {}),
            ("Schlüssel", largest, {"Kopf": "좌석"}),
        ]
        assert await reader.read(10, SECOND) == []


async def test_read_returns_no_more_than_asked_for_and_loses_none(log: EventLog, topic: str) -> None:
    async with log.writer() as writer:
        await writer.append_many(topic, [(str(number), str(number).encode(), {}) for number in range(60)])
    async with log.reader(topic, [topic]) as reader:
        seen: list[int] = []
        while len(seen) < 60:
            records = await reader.read(7, SECOND)
            assert len(records) <= 7
            seen += _numbers(records)
    assert sorted(seen) == list(range(60))


async def test_lag_counts_what_a_group_has_not_committed(log: EventLog, topic: str) -> None:
    assert await log.lag(topic, topic) == 0
    async with log.writer() as writer:
        await writer.append_many(topic, [(str(number), b"", {}) for number in range(10)])
    assert await log.lag(topic, topic) == 10
    async with log.reader(topic, [topic]) as reader:
        await _read(reader, 10)
        assert await log.lag(topic, topic) == 10
        await reader.commit()
        assert await log.lag(topic, topic) == 0
        await _append(log, topic, 3)
        assert await log.lag(topic, topic) == 3


async def test_creating_topics_again_changes_nothing(log: EventLog, narrow: str) -> None:
    await _append(log, narrow, 2)
    await log.create_topics({narrow: 1})
    await log.ping()
    async with log.reader(narrow, [narrow]) as reader:
        assert _numbers(await _read(reader, 2)) == [0, 1]


async def test_a_read_gives_no_more_than_was_asked_for(log: EventLog, topic: str) -> None:
    async with log.writer() as writer:
        await writer.append_many(topic, [(f"key-{number}", str(number).encode(), {}) for number in range(60)])
    seen: list[int] = []
    async with log.reader(topic, [topic]) as reader, asyncio.timeout(SOON.total_seconds()):
        while len(seen) < 60:
            records = await reader.read(3, SECOND)
            assert len(records) <= 3
            seen += _numbers(records)
        await reader.commit()
        assert await log.lag(topic, topic) == 0
    assert sorted(seen) == list(range(60))


async def test_a_cancelled_read_loses_nothing(log: EventLog, narrow: str) -> None:
    async with log.reader(narrow, [narrow]) as reader:
        for first in range(0, 40, 2):
            waiting = asyncio.create_task(reader.read(1, SECOND))
            await asyncio.sleep(0.005)
            await _append(log, narrow, 2, first)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            if not waiting.cancelled():
                assert len(waiting.result()) == 1
        await reader.commit()
    async with log.reader(f"{narrow}-check", [narrow]) as reader:
        assert _numbers(await _read(reader, 40)) == list(range(40))


async def test_reading_goes_on_behind_the_last_commit(log: EventLog, narrow: str) -> None:
    await _append(log, narrow, 10)
    async with log.reader(narrow, [narrow]) as reader:
        await _read(reader, 4)
        await reader.commit()
        await _read(reader, 3)
    async with log.reader(narrow, [narrow]) as reader:
        assert _numbers(await _read(reader, 6)) == [4, 5, 6, 7, 8, 9]


class _Child:
    """A reader in another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, command: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(SOON.total_seconds()):
            return (await self._process.stdout.readline()).decode().strip()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


@asynccontextmanager
async def _child(*args: str) -> AsyncIterator[_Child]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("eventlog_child.py")),
        *args,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield _Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # or its pipes are reported as left open


async def test_what_a_killed_reader_had_not_committed_comes_again(log: EventLog, log_url: str, narrow: str) -> None:
    await _append(log, narrow, 10)
    async with _child(log_url, narrow, narrow) as child:
        assert await child.ask("read 4") == "0 1 2 3"
        assert await child.ask("commit") == "committed"
        assert await child.ask("read 6") == "4 5 6 7 8 9"
    async with log.reader(narrow, [narrow]) as reader:
        assert _numbers(await _read(reader, 6)) == [4, 5, 6, 7, 8, 9]


async def test_a_frozen_reader_cannot_commit_what_another_has_taken_over(
    log: EventLog, log_url: str, narrow: str
) -> None:
    await _append(log, narrow, 10)
    async with _child(log_url, narrow, narrow) as child:
        await child.ask("read 10")
        child.send(signal.SIGSTOP)
        async with log.reader(narrow, [narrow]) as reader:
            assert _numbers(await _read(reader, 10)) == list(range(10))
            child.send(signal.SIGCONT)
            assert await child.ask("commit") == "committed"
            assert await log.lag(narrow, narrow) == 10


async def test_control_the_same_reader_could_commit_before_it_was_frozen(
    log: EventLog, log_url: str, narrow: str
) -> None:
    await _append(log, narrow, 10)
    async with _child(log_url, narrow, narrow) as child:
        await child.ask("read 10")
        child.send(signal.SIGSTOP)
        child.send(signal.SIGCONT)
        assert await child.ask("commit") == "committed"
        assert await log.lag(narrow, narrow) == 0


class _Audience:
    """Readers of one group, and what each of them handled."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.by: dict[str, set[int]] = defaultdict(set)

    async def read(self, name: str, leave: asyncio.Event) -> None:
        async with self._log.reader(self._topic, [self._topic]) as reader:
            while not leave.is_set():
                records = await reader.read(20, timedelta(milliseconds=200))
                for record in records:
                    self.seen[record.key].append(int(record.value))
                    self.by[name].add(record.partition)
                await reader.commit()

    def complete(self, keys: int, count: int) -> bool:
        return len(self.seen) == keys and all(set(numbers) == set(range(count)) for numbers in self.seen.values())


async def test_readers_of_a_group_share_the_partitions_and_nobody_loses_or_reorders_a_key(log: EventLog) -> None:
    topic, keys = await _topic(log, 4), 12
    audience = _Audience(log, topic)
    leave_first, leave_second, written = asyncio.Event(), asyncio.Event(), 0
    async with asyncio.TaskGroup() as group, log.writer() as writer:
        group.create_task(audience.read("first", leave_first))

        async def write() -> None:
            nonlocal written
            await writer.append_many(topic, [(f"key-{key}", str(written).encode(), {}) for key in range(keys)])
            written += 1

        async def shared() -> bool:
            await write()
            return len(audience.by["second"]) == 2

        await write()
        await eventually(lambda: len(audience.seen) == keys, SOON)
        assert len(audience.by["first"]) == 4
        group.create_task(audience.read("second", leave_second))
        await eventually(shared, SOON)
        leave_first.set()
        await write()
        await eventually(lambda: audience.complete(keys, written), SOON)
        leave_second.set()
    for numbers in audience.seen.values():
        assert list(dict.fromkeys(numbers)) == list(range(written))


async def test_an_idle_reader_costs_next_to_nothing(log: EventLog, topic: str) -> None:
    async with log.reader(topic, [topic]) as reader:
        await reader.read(1, SECOND)
        # All threads of the process count, also those of other tests that are ending: the best of three tells.
        assert min([await _processor_time(reader) for _ in range(3)]) < 0.05


async def _processor_time(reader: EventLogReader) -> float:
    spent = time.process_time()
    await reader.read(1, SECOND)
    return time.process_time() - spent


@pytest.fixture
def own_server(log_url: str) -> Stack:
    kind = "kafka" if log_url.startswith("kafka") else "redis"
    return Stack(session_name("test-log"), events=kind, specs=SERVERS)  # type: ignore[arg-type]  # one of the two


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_killed_server_fails_appends_in_time_and_keeps_what_it_acknowledged(own_server: Stack) -> None:
    name = "kafka" if own_server.site.events == "kafka" else "valkey"
    await asyncio.to_thread(own_server.up, [name])
    try:
        async with open_event_log(own_server.url(name)) as log:
            narrow = await _topic(log, 1)
            async with log.writer() as writer:
                for number in range(20):
                    await writer.append(narrow, "key", str(number).encode())
                await asyncio.to_thread(own_server.kill, name)
                await _fails_in_time(log, writer, narrow)
                await asyncio.to_thread(own_server.start, name)
                await eventually(lambda: _appended(writer, narrow, b"20"), SOON)
                await log.ping()
            async with log.reader(narrow, [narrow]) as reader:
                assert _numbers(await _read(reader, 21)) == list(range(21))
                assert await reader.read(1, SECOND) == []
    finally:
        await asyncio.to_thread(own_server.remove)


async def _fails_in_time(log: EventLog, writer: EventLogWriter, topic: str) -> None:
    begin = time.monotonic()
    results = await asyncio.gather(
        *(writer.append(topic, "key", b"999") for _ in range(10)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [EventLogUnavailable] * 10
    with pytest.raises(EventLogUnavailable):
        await log.ping()
    assert time.monotonic() - begin < 12


async def _appended(writer: EventLogWriter, topic: str, value: bytes) -> bool:
    try:
        await writer.append(topic, "key", value)
    except EventLogUnavailable:
        return False
    return True
