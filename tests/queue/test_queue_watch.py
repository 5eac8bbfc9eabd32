"""Following a place: one pipeline a second for everyone who watches, and nothing told twice."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from services.queue import watch
from services.queue.domain import Place, PlaceNotFound, PlaceState, SaleState, tell
from services.queue.store import LineStore
from services.queue.transitions import Progress
from services.queue.watch import PlaceWatch
from tests.queue.lines import EVENT, OPEN_SALE, join_all, store_of


class _Clock:
    """The second hand, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(watch, "_now", clock)
    return clock


def _watch(store: LineStore) -> PlaceWatch:
    async def read(wanted: Mapping[int, Sequence[int]]) -> dict[int, dict[int, Place | None]]:
        readings = await store.read_many(wanted)
        return {
            event_id: {user: tell(each, line, OPEN_SALE) if each else None for user, each in standings.items()}
            for event_id, (line, standings) in readings.items()
        }

    return PlaceWatch(read)


async def _place(store: LineStore, user_id: int) -> Place:
    line, standing = await store.read(EVENT, user_id)
    assert standing
    return tell(standing, line, OPEN_SALE)


class _Follower:
    """A stream that is read into a list."""

    def __init__(self, stream: AsyncGenerator[Place, None]) -> None:
        self.news: list[Place] = []
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[Place, None]) -> None:
        async with aclosing(stream) as news:
            async for place in news:
                self.news.append(place)


async def _follow(store: LineStore, watchers: PlaceWatch, user_id: int) -> _Follower:
    follower = _Follower(watchers.follow(EVENT, user_id, await _place(store, user_id)))
    await asyncio.sleep(0)
    return follower


async def _rounds(watchers: PlaceWatch, clock: _Clock, seconds: Sequence[float]) -> None:
    for step in seconds:
        clock.now += step
        await watchers.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_only_news_is_told_and_at_most_once_a_second(redis: Redis, clock: _Clock) -> None:
    store = store_of(redis)
    watchers = _watch(store)
    await join_all(store, (1, 2, 3))
    third = await _follow(store, watchers, 3)

    await _rounds(watchers, clock, [1.0, 1.0])
    assert third.news == []
    await store.leave(EVENT, 1)
    await _rounds(watchers, clock, [1.0, 0.3])
    assert [place.position for place in third.news] == [2]
    await store.leave(EVENT, 2)
    await _rounds(watchers, clock, [0.3])
    assert len(third.news) == 1
    await _rounds(watchers, clock, [0.7])
    assert [place.position for place in third.news] == [2, 1]
    third.task.cancel()


async def test_a_stream_ends_with_the_last_word(redis: Redis, clock: _Clock) -> None:
    store = store_of(redis, inside_cap=1)
    watchers = _watch(store)
    await join_all(store, (1, 2, 3))
    first, second, third = [await _follow(store, watchers, user) for user in (1, 2, 3)]

    await store.admit_many({EVENT: OPEN_SALE})
    await _rounds(watchers, clock, [1.0])
    await store.claim(EVENT, 1)
    await store.leave(EVENT, 2)
    await _rounds(watchers, clock, [1.0])
    await store.set_progress_many([Progress(EVENT, datetime.now(UTC), 1, 0, 1)])
    await _rounds(watchers, clock, [1.0])

    assert [place.state for place in first.news] == [PlaceState.READY, PlaceState.ADMITTED, PlaceState.ADMITTED]
    assert not first.task.done()  # whether the last seat was theirs is still to be told
    assert second.news[-1].state is PlaceState.LEFT
    assert (third.news[-1].state, third.news[-1].sale_state) == (PlaceState.WAITING, SaleState.SOLD_OUT)
    await asyncio.gather(second.task, third.task)
    first.task.cancel()


async def test_a_lost_place_ends_the_stream_with_an_error(redis: Redis, clock: _Clock) -> None:
    store = store_of(redis)
    watchers = _watch(store)
    await join_all(store, (1,))
    follower = await _follow(store, watchers, 1)

    await redis.flushdb()
    await _rounds(watchers, clock, [1.0])

    with pytest.raises(PlaceNotFound):
        await follower.task


async def test_a_drain_ends_every_stream(redis: Redis) -> None:
    store = store_of(redis)
    watchers = _watch(store)
    await join_all(store, (1,))
    before = await _follow(store, watchers, 1)

    watchers.close()
    after = await _follow(store, watchers, 1)

    await asyncio.wait_for(asyncio.gather(before.task, after.task), 5)


async def _calls(redis: Redis) -> int:
    stats: Any = await redis.info("commandstats")
    return int(sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")))


@pytest.mark.parametrize("people", [10, 400])
async def test_redis_does_not_notice_how_many_watch(redis: Redis, clock: _Clock, people: int) -> None:
    store = store_of(redis)
    watchers = _watch(store)
    await join_all(store, range(1, people + 1))
    followers = [await _follow(store, watchers, user) for user in range(1, people + 1) for _ in range(2)]
    before = await _calls(redis)

    await _rounds(watchers, clock, [1.0] * 5)

    assert await _calls(redis) - before == 5
    for follower in followers:
        follower.task.cancel()
    await asyncio.gather(*(follower.task for follower in followers), return_exceptions=True)
    before = await _calls(redis)
    await _rounds(watchers, clock, [1.0])
    assert await _calls(redis) == before
