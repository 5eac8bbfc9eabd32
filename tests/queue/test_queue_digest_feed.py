"""Following digests: one reading for everyone, the newest for who is slow, and an end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.common.errors import Unavailable
from services.queue.digest.feed import DigestFeed
from services.queue.digest.reader import DigestReader
from services.queue.digest.report import Digest
from services.queue.line.domain import EventNotFound
from tests.queue.digests import digest

_MISSING, _BROKEN = 404, 500


class _Source:
    """Digests whose incarnation counts the readings; time stands still until it is moved."""

    def __init__(self) -> None:
        self.readings = 0
        self.now = 0.0
        self.failing: set[int] = set()
        self.reader = DigestReader(self._read, lambda: self.now)
        self.feed = DigestFeed(self.reader)

    async def _read(self, event_id: int) -> Digest:
        self.readings += 1
        await asyncio.sleep(0)
        if event_id in self.failing:
            raise Unavailable("the event cannot be looked up")
        if event_id == _MISSING:
            raise EventNotFound
        return digest(incarnation=self.readings)

    async def step(self) -> None:
        self.now += 1.0
        await self.feed.step()


@pytest.fixture
def source() -> _Source:
    return _Source()


@asynccontextmanager
async def _following(source: _Source, event_id: int = 7) -> AsyncIterator[AsyncGenerator[pb.WatchDigestResponse, None]]:
    stream = source.feed.follow(event_id)
    try:
        yield stream
    finally:
        await stream.aclose()


async def _next(stream: AsyncGenerator[pb.WatchDigestResponse, None]) -> int:
    async with asyncio.timeout(1):
        return (await anext(stream)).incarnation


async def test_all_who_follow_share_one_reading(source: _Source) -> None:
    async with _following(source) as one, _following(source) as other:
        assert (await _next(one), await _next(other)) == (1, 1)
        await source.step()
        assert (await _next(one), await _next(other)) == (2, 2)
        following = asyncio.create_task(_next(one))
        await asyncio.sleep(0)
        assert not following.done()
        following.cancel()
        await asyncio.wait([following])
    assert source.readings == 2


async def test_nothing_is_read_while_nobody_follows(source: _Source) -> None:
    async with _following(source) as stream:
        await _next(stream)
    await source.step()

    assert source.readings == 1


async def test_who_is_slow_hears_the_newest(source: _Source) -> None:
    async with _following(source) as slow:
        assert await _next(slow) == 1
        for _ in range(4):
            await source.step()
        assert await _next(slow) == 5
        following = asyncio.create_task(_next(slow))
        await asyncio.sleep(0)
        assert not following.done()
        await source.step()
        assert await following == 6


async def test_who_comes_hears_the_last_digest_at_once(source: _Source) -> None:
    async with _following(source) as early:
        await _next(early)
        async with _following(source) as late:
            assert await _next(late) == 1


async def test_one_event_that_fails_does_not_stop_the_others(source: _Source) -> None:
    async with _following(source, _BROKEN) as broken, _following(source) as sound:
        assert (await _next(broken), await _next(sound)) == (1, 2)
        source.failing.add(_BROKEN)
        await source.step()
        assert await _next(sound) > 2
        source.failing.clear()
        await source.step()
        assert await _next(broken) > 4


async def test_an_event_that_is_not_there_is_not_found(source: _Source) -> None:
    async with _following(source, _MISSING) as stream:
        with pytest.raises(EventNotFound):
            await anext(stream)


async def test_an_event_that_goes_ends_its_streams(source: _Source, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_event_id: int, _max_age: timedelta) -> Digest:
        raise EventNotFound

    async with _following(source) as stream:
        await _next(stream)
        monkeypatch.setattr(source.reader, "digest", gone)
        await source.step()
        with pytest.raises(EventNotFound):
            await anext(stream)


async def test_a_drain_ends_every_stream(source: _Source) -> None:
    async with _following(source) as stream, _following(source) as waiting:
        await _next(stream)
        await _next(waiting)
        task = asyncio.create_task(anext(waiting, None))
        await asyncio.sleep(0)
        source.feed.close()
        assert await anext(stream, None) is None
        assert await task is None


async def test_who_goes_while_a_digest_is_read_takes_nobody_along(source: _Source) -> None:
    one = asyncio.create_task(source.reader.digest(7, timedelta()))
    other = asyncio.create_task(source.reader.digest(7, timedelta()))
    await asyncio.sleep(0)
    one.cancel()

    assert (await other).line.incarnation == 1
    assert source.readings == 1
