"""How readers of Redis Streams share partitions: each has its turn, and none is read that was given back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from services.common.eventlog import EventLog, open_event_log, redis_reader
from services.common.eventlog.redis_reader import RedisReader
from services.common.redis import open_redis

AT_ONCE = timedelta()
PARTITIONS = 4


@pytest.fixture
async def log(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventLog]:
    # Readers renew when the test says so.
    monkeypatch.setattr(redis_reader, "RENEWAL", timedelta(hours=1))
    monkeypatch.setattr(redis_reader, "LIFE", timedelta(hours=1))
    async with open_event_log(redis_url) as opened:
        await opened.create_topics({"facts": PARTITIONS})
        yield opened


def _reader(opened: object) -> RedisReader:
    assert isinstance(opened, RedisReader)
    return opened


async def _owned(redis_url: str, group: str) -> set[tuple[object, object]]:
    async with open_redis(redis_url) as redis:
        return set((await redis.hgetall(f"{{eventlog}}:group:{group}:owners")).items())


async def test_each_partition_has_its_turn(log: EventLog) -> None:
    async with log.writer() as writer:
        await writer.append_many("facts", [(f"key-{number}", b"", {}) for number in range(200)])
    async with log.reader("g", ["facts"]) as reader:
        turns = [(await reader.read(1, AT_ONCE))[0].partition for _ in range(3 * PARTITIONS)]
    assert sorted(turns) == sorted([*range(PARTITIONS)] * 3)


class Held:
    """A script whose answer is held back."""

    def __init__(self, script: Any) -> None:
        self._script = script
        self.answered, self.release = asyncio.Event(), asyncio.Event()

    async def call(self, *args: Any) -> Any:
        answer = await self._script.call(*args)
        self.answered.set()
        await self.release.wait()
        return answer


async def test_what_is_given_back_does_not_return_with_an_older_answer(
    log: EventLog, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log.reader("g", ["facts"]) as opened:
        first = _reader(opened)
        await first.read(1, AT_ONCE)
        async with log.reader("g", ["facts"]):
            await first._renew()
            held = Held(redis_reader._SHARE)
            monkeypatch.setattr(redis_reader, "_SHARE", held)
            renewing = asyncio.create_task(first._renew())
            await held.answered.wait()
            reading = asyncio.create_task(first.read(1, AT_ONCE))
            await asyncio.wait({reading}, timeout=0.3)
            held.release.set()
            await asyncio.gather(renewing, reading)
            assert len(first._share) == PARTITIONS // 2
            assert first._share.items() <= await _owned(redis_url, "g")


async def test_a_share_that_moves_while_it_is_taken_up_is_no_fault(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log.reader("g", ["facts"]) as opened:
        reader = _reader(opened)
        look_up, renewals = reader._groups, list[asyncio.Task[None]]()

        async def look_up_while_the_share_moves(stream: str) -> list[dict[str, Any]]:
            if not renewals:
                monkeypatch.setattr(redis_reader, "_SHARE", Nothing())
                renewals.append(asyncio.create_task(reader._renew()))
                await asyncio.wait(renewals, timeout=0.3)
            return await look_up(stream)

        monkeypatch.setattr(reader, "_groups", look_up_while_the_share_moves)
        await reader.read(1, AT_ONCE)
        await asyncio.gather(*renewals)
        await reader.read(1, AT_ONCE)
        assert not reader._positions


class Nothing:
    """The script's answer to a reader that has lost everything."""

    async def call(self, *_args: Any) -> Any:
        await asyncio.sleep(0)
        return [[], 0]


async def test_a_read_that_was_cancelled_while_it_took_up_partitions_takes_them_up_the_next_time(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log.reader("g", ["facts"]) as opened:
        reader, asked = _reader(opened), asyncio.Event()

        async def hang(_stream: str) -> list[dict[str, Any]]:
            asked.set()
            await asyncio.Event().wait()
            return []

        with monkeypatch.context() as patch:
            patch.setattr(reader, "_groups", hang)
            reading = asyncio.create_task(reader.read(1, AT_ONCE))
            await asked.wait()
            reading.cancel()
            await asyncio.wait({reading})
        await reader.read(1, AT_ONCE)
        assert len(reader._positions) == PARTITIONS
