"""Joining: in order of arrival, and one live place for each account."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import PlaceState
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import JoinCommand, Joined
from tests.queue.lines import (
    EVENT,
    POLICY,
    build,
    called,
    join,
    join_all,
    run_out,
    state,
    store_of,
    tick,
    without_guard,
)

USERS = line_key(EVENT, "users")


async def test_two_thousand_joins_in_waves_are_called_first_come_first_served(redis: Redis, other_redis: Redis) -> None:
    stores = store_of(redis), store_of(other_redis)
    waves = [list(range(start, start + 200)) for start in range(1, 2001, 200)]
    scores: dict[int, int] = {}
    for wave in waves:
        joined = await asyncio.gather(*(join(stores[user % 2], user) for user in wave))
        scores.update(zip(wave, (each.score for each in joined), strict=True))

    assert len(set(scores.values())) == 2000
    for earlier, later in itertools.pairwise(waves):
        assert max(scores[user] for user in earlier) < min(scores[user] for user in later)
    for _ in range(8):
        await tick(stores[0])
    assert await called(stores[0]) == sorted(scores, key=scores.__getitem__)


class _SlowAtFirst(LineStore):
    """A store whose first batch of joins meets a slow connection."""

    delay = 0.05

    async def _join_batches(self, batches: Sequence[Sequence[JoinCommand]]) -> list[list[Joined | Exception]]:
        delay, self.delay = self.delay, 0.0
        await asyncio.sleep(delay)
        return await super()._join_batches(batches)


async def test_no_batch_of_joins_overtakes_another(redis: Redis) -> None:
    await build(redis)
    store = _SlowAtFirst(redis, POLICY)
    joins = []
    for user in range(1, 11):
        joins.append(asyncio.create_task(join(store, user)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the coalescer sends what has arrived

    scores = [joined.score for joined in await asyncio.gather(*joins)]

    assert scores == sorted(scores)


async def test_the_line_is_the_sorted_set_of_the_product_document(redis: Redis) -> None:
    joined = await join(store_of(redis), 42)

    assert await redis.zrange(b"queue:{7}:users", 0, -1, withscores=True) == [(b"42", float(joined.score))]
    seconds, micros = await cast("Any", redis.time())
    assert 0 <= seconds * 1_000_000 + micros - joined.score < 5_000_000


async def _join_three_while_the_clock_stands(redis: Redis) -> list[int]:
    """The clock cannot be stopped; a last score that is ahead of it has the same effect."""
    store = store_of(redis)
    first = await join(store, 1)
    ahead = first.score + 3_600_000_000
    await cast("Any", redis.hset(line_key(EVENT, "line"), "last_score", ahead))
    joined = await asyncio.gather(*(join(store, user) for user in (2, 3, 4)))
    return [ahead, *(each.score for each in joined)]


async def test_scores_grow_strictly_even_when_the_clock_does_not(redis: Redis) -> None:
    ahead, *scores = await _join_three_while_the_clock_stands(redis)

    assert scores == [ahead + 1, ahead + 2, ahead + 3]


async def test_control_without_the_bump_later_scores_are_smaller(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "join", "math.max(now_us, last + 1)", "now_us")

    ahead, *scores = await _join_three_while_the_clock_stands(redis)

    assert max(scores) < ahead


async def test_one_live_place_per_account_however_many_joins_at_once(redis: Redis, other_redis: Redis) -> None:
    stores = store_of(redis), store_of(other_redis)

    joined = await asyncio.gather(*(join(stores[number % 2], 1) for number in range(100)))

    assert sum(each.fresh for each in joined) == 1
    assert len({each.score for each in joined}) == 1


async def test_control_without_the_guard_repeated_joins_lose_the_place(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if redis.call('ZSCORE', sets[lane], user_id) then return 'found' end"
    without_guard(monkeypatch, tmp_path, "join", guard)
    stores = store_of(redis), store_of(other_redis)

    joined = await asyncio.gather(*(join(stores[number % 2], 1) for number in range(100)))

    assert len({each.score for each in joined}) > 1


async def test_who_is_inside_does_not_get_a_second_place(redis: Redis) -> None:
    store = store_of(redis)
    first = await join(store, 1)
    await tick(store)
    called_again = await join(store, 1)
    await store.claim(EVENT, 1)
    admitted_again = await join(store, 1)

    assert (called_again.score, called_again.fresh) == (first.score, False)
    assert (admitted_again.score, admitted_again.fresh) == (first.score, False)
    assert await redis.zcard(USERS) == 0


async def test_control_without_that_guard_the_account_stands_twice(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if is_inside and tonumber(until_ms) > now_ms then return 'found' end"
    without_guard(monkeypatch, tmp_path, "join", guard, "is_inside, state = false, nil")
    store = store_of(redis)
    await join(store, 1)
    await tick(store)
    await join(store, 1)

    assert await redis.zcard(USERS) + await redis.zcard(line_key(EVENT, "ready")) == 2


async def test_after_a_final_state_joining_takes_a_new_place_at_the_end(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2, 3))
    await store.leave(EVENT, 1)

    again = await join(store, 1)

    assert again.fresh
    assert await redis.zrange(USERS, 0, -1) == [b"2", b"3", b"1"]


async def test_who_ran_out_can_join_again_before_the_tick_comes_by(redis: Redis) -> None:
    store = store_of(redis)
    first = await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)
    await run_out(redis, 1)
    assert await state(store, 1) is PlaceState.EXPIRED

    again = await join(store, 1)

    assert again.fresh
    assert again.score > first.score
    assert await state(store, 1) is PlaceState.WAITING
    assert await redis.zcard(line_key(EVENT, "admitted")) == 0
