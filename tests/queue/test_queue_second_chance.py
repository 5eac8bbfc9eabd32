"""Who misses a call is called once more, and only once."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import PlaceNotReady, PlaceState, tell
from services.queue.line.store import LineStore, line_key
from tests.queue.lines import EVENT, OPEN_SALE, called, join, join_all, run_out, state, store_of, tick, without_guard


async def _miss(redis: Redis, store: LineStore, user: int) -> None:
    """Is called, and does not come."""
    await tick(store)
    assert await state(store, user) is PlaceState.READY
    await run_out(redis, user)


async def test_a_missed_call_gives_its_slot_on_and_waits_for_a_second_one(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    first = await join(store, 1)
    await join_all(store, (2, 3))
    await _miss(redis, store, 1)

    after = await tick(store)

    assert (after.called, after.lapsed.missed, after.expired, after.missed, after.inside) == (1, 1, 0, 1, 1)
    assert await called(store) == [1, 2]
    line, standing = await store.read(EVENT, 1)
    assert standing
    place = tell(standing, line, OPEN_SALE)
    assert (place.state, place.position, place.ahead, place.score) == (PlaceState.WAITING, 1, 0, first.score)
    assert place.call_again
    assert 50 < (place.call_again - line.now).total_seconds() <= 60
    assert line.total_waiting == 2
    with pytest.raises(PlaceNotReady):
        await store.claim(EVENT, 1)


async def _calls_of_someone_who_never_comes(redis: Redis) -> list[int]:
    store = store_of(redis)
    await join(store, 1)
    for _ in range(4):
        await tick(store)  # called
        await run_out(redis, 1)
        await tick(store)  # missed
        if await redis.zcard(line_key(EVENT, "missed")):
            await run_out(redis, 1)
    return await called(store)


async def test_the_second_call_comes_when_it_is_due_and_there_is_no_third(redis: Redis) -> None:
    assert await _calls_of_someone_who_never_comes(redis) == [1, 1]
    assert await state(store_of(redis), 1) is PlaceState.EXPIRED


async def test_control_without_the_count_somebody_is_called_for_ever(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if state == 'R' and calls == '1' then"
    without_guard(monkeypatch, tmp_path, "lapse", guard, "if state == 'R' then")

    assert len(await _calls_of_someone_who_never_comes(redis)) > 2


@pytest.mark.parametrize("has_ticked", [False, True])
async def test_who_joins_again_is_next_at_once(redis: Redis, has_ticked: bool) -> None:
    store = store_of(redis, inside_cap=1)
    first = await join(store, 1)
    await join_all(store, (2, 3, 4))
    await _miss(redis, store, 1)
    if has_ticked:
        await tick(store)

    again = await join(store, 1)

    assert (again.fresh, again.score, again.standing.ahead) == (False, first.score, 0)
    if has_ticked:
        await store.leave(EVENT, 2)
    await tick(store)
    assert (await called(store))[-1] == 1
    assert [fact.calls for fact in await store.unpublished(EVENT, 10) if fact.user_id == 1][:2] == [1, 2]


async def test_a_second_call_can_be_claimed_and_a_later_place_has_two_chances_again(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)
    await _miss(redis, store, 1)
    await join(store, 1)
    await tick(store)
    assert (await store.claim(EVENT, 1)).fresh
    await store.leave(EVENT, 1)

    assert (await join(store, 1)).fresh
    await _miss(redis, store, 1)
    assert await state(store, 1) is PlaceState.WAITING


@pytest.mark.parametrize("has_returned", [False, True])
async def test_who_missed_a_call_can_leave(redis: Redis, has_returned: bool) -> None:
    store = store_of(redis)
    await join(store, 1)
    await _miss(redis, store, 1)
    await tick(store)
    if has_returned:
        await join(store, 1)

    assert await store.leave(EVENT, 1)
    assert not await store.leave(EVENT, 1)

    assert await state(store, 1) is PlaceState.LEFT
    assert (await tick(store)).is_quiet is False  # the facts are still to be told
    assert (await tick(store)).missed == 0


async def _places_after_many_joins(redis: Redis, other_redis: Redis) -> int:
    """Someone who missed a call joins many times at once, while two loops tick."""
    stores = store_of(redis), store_of(other_redis)
    await join(stores[0], 1)
    await _miss(redis, stores[0], 1)
    await tick(stores[0])
    await asyncio.gather(*(join(stores[number % 2], 1) for number in range(40)), *map(tick, stores))
    return sum([await redis.zcard(line_key(EVENT, name)) for name in ("users", "ready", "admitted", "missed")])


async def test_who_missed_a_call_has_one_live_place_however_many_joins_at_once(
    redis: Redis, other_redis: Redis
) -> None:
    assert await _places_after_many_joins(redis, other_redis) == 1


async def test_control_without_the_guard_they_stand_twice(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "for _, set in ipairs({ready, admitted, missed}) do redis.call('ZREM', set, user_id) end"
    without_guard(monkeypatch, tmp_path, "join", guard)

    assert await _places_after_many_joins(redis, other_redis) > 1
