"""Lanes: calls in proportion to the weights, the order kept within each, and one place for each account over all."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import Lane, LanePassInvalid, LanesInvalid, Policy
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import FactKind
from tests.queue.lines import (
    EVENT,
    POLICY,
    build,
    called,
    join,
    join_all,
    pass_time,
    run_out,
    state,
    store_of,
    tick,
    without_guard,
)

LANES = (Lane(0, "general", 1), Lane(1, "fan club", 3), Lane(2, "partners", 2))
NAMES = ("users", "lane_1", "lane_2", "lane_3")


async def with_lanes(redis: Redis, **changes: object) -> LineStore:
    """A store whose line has the lanes above."""
    store = store_of(redis, lanes=LANES, **changes)
    await build(redis)
    await store.set_policy(EVENT, Policy(POLICY.mode, 1, 1, POLICY.claim_window, POLICY.admission, LANES), {"lanes"})
    return store


async def _called_by_lane(store: LineStore) -> list[tuple[int, int]]:
    facts = await store.unpublished(EVENT, 1_000_000)
    return [(fact.lane, fact.user_id) for fact in facts if fact.kind is FactKind.CALLED]


async def test_calls_are_in_proportion_to_the_weights_and_in_order_within_each_lane(redis: Redis) -> None:
    store = await with_lanes(redis, rate_per_second=7.0)  # six calls are one round of all lanes; seven never fit
    for user in range(1, 901):
        await join(store, user, lane=user % 3)

    totals: Counter[int] = Counter()
    for _ in range(24):
        await tick(store)
        await pass_time(redis, 1.0)
    told = await _called_by_lane(store)

    for lane in range(3):
        users = [user for each, user in told if each == lane]
        assert users == sorted(users)
        totals[lane] = len(users)
    assert sum(totals.values()) == 24 * 7
    assert totals == {0: 28, 1: 84, 2: 56}


async def test_a_lane_that_runs_empty_hoards_nothing(redis: Redis) -> None:
    store = await with_lanes(redis, rate_per_second=6.0)
    for user in range(1, 101):
        await join(store, user)
    for _ in range(5):
        await tick(store)
        await pass_time(redis, 1.0)
    for user in range(101, 131):
        await join(store, user, lane=1)

    await tick(store)
    latest = (await _called_by_lane(store))[-6:]

    assert Counter(lane for lane, _ in latest) in ({0: 1, 1: 5}, {0: 2, 1: 4})  # three to one


async def test_control_without_the_turns_a_lane_starves(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "admit", "credit[richest] - earned", "credit[richest]")
    store = await with_lanes(redis, rate_per_second=6.0)
    for user in range(1, 61):
        await join(store, user, lane=user % 3)

    await tick(store)
    await pass_time(redis, 1.0)
    await tick(store)

    assert {lane for lane, _ in await _called_by_lane(store)} == {1}


async def test_a_pass_moves_a_standing_place_and_keeps_its_score(redis: Redis) -> None:
    store = await with_lanes(redis)
    first = await join(store, 1)
    await join_all(store, (2, 3))
    await join(store, 3, lane=1)

    moved = await join(store, 1, lane=1)

    assert (moved.fresh, moved.score, moved.standing.lane, moved.standing.ahead) == (False, first.score, 1, 0)
    assert await redis.zrange(line_key(EVENT, "lane_1"), 0, -1) == [b"1", b"3"]
    assert await redis.zrange(line_key(EVENT, "users"), 0, -1) == [b"2"]
    assert (await join(store, 1)).standing.lane == 1
    assert b"1" in await redis.zrange(line_key(EVENT, "changed"), 0, -1)


async def test_a_pass_of_a_lane_that_is_not_in_use_opens_nothing(redis: Redis) -> None:
    store = await with_lanes(redis)

    with pytest.raises(LanePassInvalid):
        await join(store, 1, lane=3)

    assert await state(store, 1) is None


async def test_a_new_place_without_a_pass_is_in_the_general_lane_again(redis: Redis) -> None:
    store = await with_lanes(redis)
    await join(store, 1, lane=2)
    await store.leave(EVENT, 1)

    assert (await join(store, 1)).standing.lane == 0
    assert await redis.hlen(line_key(EVENT, "lanes")) == 0


async def _places(redis: Redis) -> int:
    names = (*NAMES, "ready", "admitted", "missed")
    return sum([await redis.zcard(line_key(EVENT, name)) for name in names])


async def _taken_from_all_lanes_at_once(redis: Redis, other_redis: Redis) -> int:
    """How many places one account took."""
    await with_lanes(redis)
    stores = store_of(redis, lanes=LANES), store_of(other_redis, lanes=LANES)
    joined = await asyncio.gather(*(join(stores[number % 2], 1, lane=number % 3) for number in range(60)))
    return sum(each.fresh for each in joined)


async def test_one_live_place_over_all_lanes_however_many_joins_at_once(redis: Redis, other_redis: Redis) -> None:
    assert await _taken_from_all_lanes_at_once(redis, other_redis) == 1
    assert await _places(redis) == 1


async def test_control_without_the_guard_an_account_takes_several_places(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if redis.call('ZSCORE', sets[lane], user_id) then return 'found' end"
    without_guard(monkeypatch, tmp_path, "join", guard)

    assert await _taken_from_all_lanes_at_once(redis, other_redis) > 1


async def test_two_loops_at_once_keep_the_cap_over_all_lanes(redis: Redis, other_redis: Redis) -> None:
    store = await with_lanes(redis, inside_cap=7)
    for user in range(1, 101):
        await join(store, user, lane=user % 3)
    stores = store, store_of(other_redis, lanes=LANES, inside_cap=7)

    async def loop(each: LineStore) -> int:
        return max([(await tick(each)).inside for _ in range(20)])

    assert max(await asyncio.gather(*map(loop, stores))) == 7


async def test_a_lane_with_people_cannot_go_and_an_empty_one_can(redis: Redis) -> None:
    store = await with_lanes(redis)
    await join(store, 1, lane=2)
    policy = await store.policy(EVENT)
    fewer = Policy(policy.mode, 1, 1, policy.claim_window, policy.admission, LANES[:2])

    with pytest.raises(LanesInvalid) as refused:
        await store.set_policy(EVENT, fewer, {"lanes"})
    assert refused.value.metadata == {"field": "lanes"}
    assert (await store.policy(EVENT)).lanes == LANES

    await store.leave(EVENT, 1)
    before, after, _ = await store.set_policy(EVENT, fewer, {"lanes"})
    assert (before.lanes, after.lanes) == (LANES, LANES[:2])


async def test_a_lane_of_the_draw_has_people_too(redis: Redis) -> None:
    store = await with_lanes(redis)
    await redis.delete(line_key(EVENT, "draw"))
    await redis.zadd(line_key(EVENT, "entrants"), {"1": 5})
    await redis.hset(line_key(EVENT, "lanes"), "1", "2")

    policy = await store.policy(EVENT)
    fewer = Policy(policy.mode, 1, 1, policy.claim_window, policy.admission, LANES[:2])
    with pytest.raises(LanesInvalid):
        await store.set_policy(EVENT, fewer, {"lanes"})

    # Who leaves an open list takes their lane along.
    await store.leave(EVENT, 1)
    _, after, _ = await store.set_policy(EVENT, fewer, {"lanes"})
    assert after.lanes == LANES[:2]


@pytest.mark.parametrize(
    "lanes",
    [
        (),
        (Lane(1, "fans", 1),),
        (Lane(0, "general", 1), Lane(0, "again", 1)),
        (Lane(0, "general", 1), Lane(4, "too many", 1)),
        (Lane(0, "", 1),),
        (Lane(0, "x" * 41, 1),),
    ],
)
def test_lanes_have_rules(lanes: tuple[Lane, ...]) -> None:
    with pytest.raises(LanesInvalid):
        Policy(POLICY.mode, 1, 1, POLICY.claim_window, POLICY.admission, lanes)


async def test_who_is_called_from_a_lane_comes_back_to_it(redis: Redis) -> None:
    store = await with_lanes(redis)
    first = await join(store, 1, lane=1)
    await tick(store)
    await run_out(redis, 1)
    await tick(store)

    again = await join(store, 1)

    assert (again.score, again.standing.lane, again.standing.ahead) == (first.score, 1, 0)
    await tick(store)
    assert await called(store) == [1, 1]
