"""Following a place: one pipeline a second for everyone who watches, and nothing told twice."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.common.errors import Unavailable
from services.common.keyring import KeyRing
from services.queue import watch
from services.queue.line.domain import (
    EventNotFound,
    Expect,
    Outlook,
    Place,
    PlaceNotFound,
    PlaceState,
    Sale,
    SaleState,
    tell,
    unforeseen,
)
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import Progress
from services.queue.waiting_room import JoinWish, WaitingRoom
from services.queue.watch import PlaceWatch
from tests.queue.lines import EVENT, OPEN_SALE, build, join_all, readings, store_of, tick
from tests.support import eventually


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


def _watch(store: LineStore, expect: Expect = unforeseen) -> PlaceWatch:
    async def read(wanted: Mapping[int, Sequence[int]]) -> dict[int, dict[int, Place | None]]:
        return {
            event_id: {user: tell(each, line, OPEN_SALE, expect) if each else None for user, each in standings.items()}
            for event_id, (line, standings) in (await readings(store, wanted)).items()
        }

    return PlaceWatch(read)


async def _place(store: LineStore, user_id: int, expect: Expect = unforeseen) -> Place:
    line, standing = await store.read(EVENT, user_id)
    assert standing
    return tell(standing, line, OPEN_SALE, expect)


class _Follower:
    """A stream that is read into a list."""

    def __init__(self, stream: AsyncGenerator[Place, None]) -> None:
        self.news: list[Place] = []
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[Place, None]) -> None:
        async with aclosing(stream) as news:
            async for place in news:
                self.news.append(place)


async def _follow(store: LineStore, watchers: PlaceWatch, user_id: int, expect: Expect = unforeseen) -> _Follower:
    follower = _Follower(watchers.follow(EVENT, user_id, await _place(store, user_id, expect)))
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


async def test_another_forecast_alone_is_news(redis: Redis, clock: _Clock) -> None:
    store, foreseen = store_of(redis), [Outlook(50.0, 100.0, 200.0, 0.5)]

    def expect(_lane: int, _position: int) -> Outlook:
        return foreseen[-1]

    watchers = _watch(store, expect)
    await join_all(store, (1,))
    follower = await _follow(store, watchers, 1, expect)

    for outlook, times_told in (
        # Time passes, and somewhat faster or slower than was thought.
        (Outlook(49.0, 99.0, 199.0, 0.5), 0),
        (Outlook(49.0, 110.0, 220.0, 0.45), 0),
        (Outlook(2_000.0, 4_000.0, 8_000.0, 0.45), 1),
        (Outlook(2_000.0, 4_000.0, 8_000.0, 0.45), 1),
        (Outlook(2_000.0, 4_000.0, 9_800.0, 0.45), 2),
        (Outlook(2_000.0, 4_000.0, 9_800.0, 0.2), 3),
        (Outlook(2_000.0, 4_000.0, 9_800.0, None), 4),
    ):
        foreseen.append(outlook)
        await _rounds(watchers, clock, [1.0])
        assert len(follower.news) == times_told
    # Nobody is called, and the wait grows no shorter than it was told a quarter of an hour ago.
    await _rounds(watchers, clock, [900.0])
    assert len(follower.news) == 5
    follower.task.cancel()


async def test_a_stream_ends_with_the_last_word(redis: Redis, clock: _Clock) -> None:
    store = store_of(redis, inside_cap=1)
    watchers = _watch(store)
    await join_all(store, (1, 2, 3))
    first, second, third = [await _follow(store, watchers, user) for user in (1, 2, 3)]

    await tick(store)
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
    await build(redis)
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


class _Catalog:
    """Sales that are open, but for those events of which it was told otherwise."""

    def __init__(self) -> None:
        self.errors: dict[int, Exception] = {}

    async def sale(self, event_id: int) -> Sale:
        if event_id in self.errors:
            raise self.errors[event_id]
        return OPEN_SALE


class _NoForesight:
    async def expect(self, event_ids: Collection[int]) -> dict[int, Expect]:
        return dict.fromkeys(event_ids, unforeseen)


OTHER = 8


async def _two_watched_events(redis: Redis) -> tuple[WaitingRoom, _Catalog, list[_Follower]]:
    """One person waits and watches in each of two lines."""
    catalog, ring = _Catalog(), KeyRing({"k": b"k" * 32})
    room = WaitingRoom(
        store_of(redis),
        catalog,  # type: ignore[arg-type] # the method that is used
        *(cast("Any", unused) for unused in (None, None)),
        place_keys=ring,
        admission_keys=ring,
        foresight=_NoForesight(),  # type: ignore[arg-type] # likewise
    )
    for event_id in (EVENT, OTHER):
        await room.join(JoinWish(event_id, 1))
    followers = [_Follower(room.watch(event_id, 1)) for event_id in (EVENT, OTHER)]  # type: ignore[arg-type] # a generator
    await eventually(lambda: all(follower.news for follower in followers))
    await asyncio.sleep(0)
    return room, catalog, followers


async def test_an_event_that_is_gone_ends_its_own_streams_and_no_others(redis: Redis, clock: _Clock) -> None:
    room, catalog, (here, gone) = await _two_watched_events(redis)
    catalog.errors[OTHER] = EventNotFound()
    await tick(store_of(redis))

    await _rounds(room.watchers, clock, [1.0])

    assert [place.state for place in here.news] == [PlaceState.WAITING, PlaceState.READY]
    with pytest.raises(PlaceNotFound):
        await gone.task
    here.task.cancel()


@pytest.mark.parametrize("trouble", ["inventory is away", "a policy that is none"])
async def test_who_watches_an_event_in_trouble_hears_the_rest_later_and_others_hear_it_now(
    redis: Redis, clock: _Clock, trouble: str
) -> None:
    room, catalog, (here, troubled) = await _two_watched_events(redis)
    policy = line_key(OTHER, "policy")
    store = store_of(redis)
    assert not [each for each in (await store.admit_many({OTHER: OPEN_SALE})).values() if isinstance(each, Exception)]
    await tick(store)
    if trouble == "inventory is away":
        catalog.errors[OTHER] = Unavailable()
    else:
        await cast("Any", redis.hset(policy, "mode", "oops"))

    await _rounds(room.watchers, clock, [1.0])
    assert (len(here.news), len(troubled.news)) == (2, 1)

    catalog.errors.clear()
    await redis.delete(policy)
    await _rounds(room.watchers, clock, [1.0])
    assert [place.state for place in troubled.news] == [PlaceState.WAITING, PlaceState.READY]
    for follower in (here, troubled):
        follower.task.cancel()
