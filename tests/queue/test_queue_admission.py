"""Admission: bounds that hold however many loops run, slots that come back, calls that are never lost."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import Mode, PlaceState, Policy, PolicyOutOfRange, Sale
from services.queue.line.store import LineStore, line_key
from tests.queue.lines import (
    EVENT,
    OPEN_SALE,
    POLICY,
    join_all,
    pass_time,
    run_out,
    state,
    store_of,
    tick,
    without_guard,
)


async def _most_inside_under_two_loops(redis: Redis, other_redis: Redis) -> int:
    """Two loops tick as fast as they can, while those who are called claim, and some leave."""
    stores = [store_of(each, inside_cap=10) for each in (redis, other_redis)]
    await join_all(stores[0], range(1, 201))

    async def loop(store: LineStore) -> int:
        most = 0
        for _ in range(30):
            most = max(most, (await tick(store)).inside)
            front: Any = await redis.zrange(line_key(EVENT, "ready"), 0, 2)
            ready = [int(user) for user in front]
            await asyncio.gather(*(store.claim(EVENT, user) for user in ready[1:]), return_exceptions=True)
            await asyncio.gather(*(store.leave(EVENT, user) for user in ready[:1]))
        return most

    return max(await asyncio.gather(*map(loop, stores)))


async def test_two_loops_at_once_keep_the_hard_cap(redis: Redis, other_redis: Redis) -> None:
    assert await _most_inside_under_two_loops(redis, other_redis) == 10


async def test_control_without_the_guard_two_loops_break_the_cap(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "local slots = cap - redis.call('ZCARD', ready) - redis.call('ZCARD', admitted)"
    without_guard(monkeypatch, tmp_path, "admit", guard, "local slots = cap")

    assert await _most_inside_under_two_loops(redis, other_redis) > 10


async def _called_in_a_while(redis: Redis, other_redis: Redis, rate: float) -> tuple[int, float]:
    stores = [store_of(each, rate_per_second=rate) for each in (redis, other_redis)]
    await join_all(stores[0], range(1, 301))
    started = time.monotonic()

    async def loop(store: LineStore) -> int:
        return sum([(await tick(store)).called for _ in range(60)])

    counts = await asyncio.gather(*map(loop, stores))
    return sum(counts), time.monotonic() - started


async def test_two_loops_at_once_keep_the_rate(redis: Redis, other_redis: Redis) -> None:
    people, seconds = await _called_in_a_while(redis, other_redis, rate=20.0)

    assert 20 <= people <= 20 + 20 * seconds


async def test_control_without_the_bucket_two_loops_break_the_rate(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "admit", "string.format('%.9f', tokens - #calls)", "burst")

    people, seconds = await _called_in_a_while(redis, other_redis, rate=20.0)

    assert people > 20 + 20 * seconds


async def test_a_slow_rate_adds_up_and_never_bursts_beyond_a_second(redis: Redis) -> None:
    slow = store_of(redis, rate_per_second=0.5)
    await join_all(slow, range(1, 100))

    calls = [(await tick(slow)).called]
    for _ in range(4):
        await pass_time(redis, 1.0)
        calls.append((await tick(slow)).called)
    await pass_time(redis, 3_600.0)
    calls.append((await tick(slow)).called)
    assert calls == [1, 0, 1, 0, 1, 1]

    fast = store_of(redis, rate_per_second=5.0)
    await pass_time(redis, 3_600.0)
    assert (await tick(fast)).called == 5


async def test_whose_admission_runs_out_expires_and_the_next_is_called(redis: Redis) -> None:
    store = store_of(redis, inside_cap=2)
    await join_all(store, (1, 2, 3, 4))
    await tick(store)
    for user in (1, 2):
        await store.claim(EVENT, user)
        await run_out(redis, user)

    after = await tick(store)

    assert (after.called, after.expired, after.inside) == (2, 2, 2)
    assert [await state(store, user) for user in (1, 2, 3, 4)] == [PlaceState.EXPIRED] * 2 + [PlaceState.READY] * 2


async def test_a_lower_cap_calls_nobody_until_enough_have_left(redis: Redis) -> None:
    store, narrow = store_of(redis, inside_cap=5), store_of(redis, inside_cap=2)
    await join_all(store, range(1, 11))
    await tick(store)

    assert (await tick(narrow)).called == 0
    for user in (1, 2, 3):
        await store.leave(EVENT, user)
    assert (await tick(narrow)).called == 0
    await store.leave(EVENT, 4)
    assert (await tick(narrow)).called == 1


async def test_hold_calls_nobody_and_keeps_places_drain_calls_until_empty(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, (1, 2))
    held, drained = store_of(redis, mode=Mode.HOLD), store_of(redis, mode=Mode.DRAIN)

    assert (await tick(held)).called == 0
    assert await state(held, 1) is PlaceState.WAITING
    assert (await tick(drained)).called == 2


async def test_nobody_is_called_after_the_close(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, (1,))

    after = await tick(store, Sale(OPEN_SALE.open_time, datetime(2021, 1, 1, tzinfo=UTC)))

    assert (after.called, after.over, after.is_quiet) == (0, True, True)


async def test_a_changed_policy_rules_the_next_tick(redis: Redis) -> None:
    store = store_of(redis)
    wanted = Policy(Mode.HOLD, 3.0, 2, timedelta(seconds=20), timedelta(seconds=40))
    await join_all(store, (1, 2, 3))

    before, after, version = await store.set_policy(EVENT, wanted, {"mode"})
    assert (before, after.mode, after.inside_cap) == (POLICY, Mode.HOLD, POLICY.inside_cap)
    assert (await tick(store)).called == 0

    everything = {"mode", "rate_per_second", "inside_cap", "claim_window", "admission"}
    opened = Policy(Mode.OPEN, 3.0, 2, timedelta(seconds=20), timedelta(seconds=40))
    again = await store.set_policy(EVENT, opened, everything)
    assert again[:2] == (after, opened)
    assert again.version > version
    assert await store.policy(EVENT) == opened
    assert (await tick(store)).called == 2
    call = (await store.unpublished(EVENT, 1))[0]
    assert call.until
    assert call.until - call.time == timedelta(seconds=20)
    admission = await store.claim(EVENT, call.user_id)
    assert admission.until - admission.since == timedelta(seconds=40)


@pytest.mark.parametrize(
    ("field", "rate", "cap", "window", "admission"),
    [
        ("rate_per_second", 0.09, 1, 10, 30),
        ("rate_per_second", float("nan"), 1, 10, 30),
        ("inside_cap", 1, 0, 10, 30),
        ("claim_window_seconds", 1, 1, 9, 30),
        ("admission_seconds", 1, 1, 10, 601),
    ],
)
def test_policies_have_ranges(field: str, rate: float, cap: int, window: int, admission: int) -> None:
    with pytest.raises(PolicyOutOfRange) as refused:
        Policy(Mode.OPEN, rate, cap, timedelta(seconds=window), timedelta(seconds=admission))

    assert refused.value.metadata == {"field": field}


async def test_the_observed_rate_counts_only_time_in_which_people_waited(redis: Redis) -> None:
    store = store_of(redis, rate_per_second=10.0, inside_cap=10)
    await join_all(store, range(1, 101))
    await tick(store)
    for _ in range(30):  # five minutes in which nobody leaves
        await pass_time(redis, 10.0)
        await tick(store)
    blocked, _ = await store.read(EVENT, 100)
    assert blocked.rate_per_second < 0.1

    for user in range(11, 101):
        await store.leave(EVENT, user)
    await pass_time(redis, 10.0)
    await tick(store)
    empty, _ = await store.read(EVENT, 100)
    for _ in range(30):  # and five in which nobody waits
        await pass_time(redis, 10.0)
        await tick(store)
    still_empty, _ = await store.read(EVENT, 100)
    assert still_empty.rate_per_second == empty.rate_per_second
