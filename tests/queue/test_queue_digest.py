"""A line in short: what Redis answers, how exact positions are that are computed from it, and what edges are told."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, cast

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from redis.asyncio import Redis

from services.common.place_in_digest import ForecastTable, LaneScores, Told, position_of, told_at
from services.queue.digest import store as store_module
from services.queue.digest.report import digest_of, message
from services.queue.digest.snapshot import LineSnapshot
from services.queue.digest.store import DigestStore
from services.queue.line.domain import Lane, Mode, SaleState
from services.queue.line.store import line_key
from tests.queue.lines import EVENT, OPEN_SALE, POLICY

_CROWD: Final = 200_000
_OPENING_US: Final = 1_800_000_000_000_000


def _clustered_scores() -> Iterator[int]:
    """Who was in the draw, then bursts of neighbours in the same microseconds, then a trickle."""
    chance = random.Random(3)
    yield from sorted(chance.sample(range(2**50), _CROWD // 4))
    now = _OPENING_US
    while True:
        for _ in range(chance.choice([1, 1, 3, 40, 2_000])):
            now += 1
            yield now
        now += chance.choice([7, 900, 60_000_000])


@pytest.fixture
async def crowd(redis: Redis) -> dict[int, int]:
    """Scores by account, all of them in lane 0."""
    people = dict(zip(range(1, _CROWD + 1), _clustered_scores(), strict=False))
    async with redis.pipeline(transaction=False) as pipe:
        for start in range(1, _CROWD + 1, 5_000):
            pipe.zadd(line_key(EVENT, "users"), {str(user): people[user] for user in range(start, start + 5_000)})
        await pipe.execute()
    return people


async def _worst_error(redis: Redis, crowd: Mapping[int, int], lane: LaneScores) -> tuple[int, int]:
    """The largest difference between computed positions and those of Redis: in the front, and behind it."""
    users = list(crowd)[::97] + list(crowd)[:1_000]
    async with redis.pipeline(transaction=False) as pipe:
        for user in users:
            pipe.zrank(line_key(EVENT, "users"), str(user))
        ranks = await pipe.execute()
    worst = {True: 0, False: 0}
    for user, rank in zip(users, ranks, strict=True):
        computed = position_of(crowd[user], lane)
        assert computed is not None
        worst[rank < 1_000] = max(worst[rank < 1_000], abs(computed - rank - 1))
    return worst[True], worst[False]


async def test_positions_are_exact_in_front_and_within_a_five_hundredth_behind(
    redis: Redis, crowd: dict[int, int]
) -> None:
    lane = (await DigestStore(redis).snapshot(EVENT)).lanes[0].scores

    in_front, behind = await _worst_error(redis, crowd, lane)

    assert (lane.waiting, len(lane.front), len(lane.samples)) == (_CROWD, 1_000, 1_000)
    assert lane.sample_positions[-1] == _CROWD
    assert in_front == 0
    assert 0 < behind <= _CROWD * 0.002


async def test_with_fewer_samples_positions_are_not_within_the_bound(
    redis: Redis, crowd: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SAMPLES", 100)

    lane = (await DigestStore(redis).snapshot(EVENT)).lanes[0].scores

    assert (await _worst_error(redis, crowd, lane))[1] > _CROWD * 0.002


@pytest.mark.parametrize("waiting", [0, 1, 999, 1_000, 1_001, 1_002, 1_999, 2_000, 2_001, 3_500])
async def test_short_lanes_are_told_to_their_end(redis: Redis, waiting: int) -> None:
    people = {str(user): 10 * user for user in range(1, waiting + 1)}
    if people:
        await redis.zadd(line_key(EVENT, "users:2"), people)

    lane = (await DigestStore(redis).snapshot(EVENT)).lanes[2].scores

    assert lane.waiting == waiting
    assert [position_of(score, lane) for score in people.values()] == list(range(1, waiting + 1))
    assert position_of(10**15, lane) == waiting + 1


def test_who_is_not_in_the_front_any_more_must_be_asked_for() -> None:
    lane = LaneScores(3, [10, 20, 40], [], [])

    assert [position_of(score, lane) for score in (10, 30, 40, 50)] == [1, None, 3, 4]


async def test_changes_are_told_for_five_seconds_and_kept_for_ten(redis: Redis) -> None:
    now_s, _ = await redis.time()
    ages = {"1": 0, "2": 4, "3": 7, "4": 12}
    key = line_key(EVENT, "changed")
    await redis.zadd(key, {user: (now_s - age) * 1_000 for user, age in ages.items()})

    line = await DigestStore(redis).snapshot(EVENT)

    assert line.changed == [1, 2]
    assert await redis.zrange(key, 0, -1) == [b"3", b"2", b"1"]


async def test_how_many_are_inside_is_kept_now_and_then(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    await cast("Any", redis.hset(line_key(EVENT, "line"), mapping={"built": 1, "called": 5}))
    await redis.zadd(line_key(EVENT, "admitted"), {"1": 1, "2": 2})
    store = DigestStore(redis)
    await store.snapshot(EVENT)
    assert len((await store.snapshot(EVENT)).stays) == 1  # too early for another

    monkeypatch.setattr(store_module, "_RULES", {**store_module._RULES, "sample_ms": 0, "max_samples": 2})
    await cast("Any", redis.hset(line_key(EVENT, "line"), "called", 9))
    for _ in range(3):
        line = await store.snapshot(EVENT)

    assert [(each.called, each.inside) for each in line.stays] == [(9, 2), (9, 2)]


async def test_the_key_of_a_draw_is_told_when_it_is_held_and_nobody_is_counted_twice(redis: Redis) -> None:
    await redis.zadd(line_key(EVENT, "entrants"), {"1": 1, "2": 2, "3": 3})
    await redis.zadd(line_key(EVENT, "users"), {"2": 12})
    draw = line_key(EVENT, "draw")
    await cast("Any", redis.hset(draw, mapping={"key": bytes(32), "entered": 1}))
    store = DigestStore(redis)
    drawing = await store.snapshot(EVENT)
    assert (drawing.draw_key, drawing.total_waiting) == (b"", 3)

    await redis.zadd(line_key(EVENT, "users"), {"1": 11, "3": 13})
    await cast("Any", redis.hset(draw, mapping={"entered": 3, "held_ms": 1}))
    held = await store.snapshot(EVENT)
    assert (held.draw_key, held.total_waiting) == (bytes(32), 3)


async def test_a_lost_line_is_told_as_restoring(redis: Redis) -> None:
    told = message(digest_of(await DigestStore(redis).snapshot(EVENT), POLICY, OPEN_SALE))

    assert (told.incarnation, told.sale_state) == (0, pb.SALE_STATE_RESTORING)


@pytest.fixture
async def line(redis: Redis) -> LineSnapshot:
    """A built line of 5,000 in an open sale that has told of its seats."""
    await cast("Any", redis.hset(line_key(EVENT, "line"), mapping={"built": 77, "watermark:0": 9}))
    await cast("Any", redis.hset(line_key(EVENT, "draw"), mapping={"held_ms": 1, "key": bytes(32)}))
    await cast("Any", redis.hset(line_key(EVENT, "sale"), mapping={"seats_left": 40, "seats_total": 100}))
    await redis.zadd(line_key(EVENT, "users"), {str(user): user for user in range(10, 5_010)})
    return await DigestStore(redis).snapshot(EVENT)


async def test_an_edge_hears_all_it_needs(line: LineSnapshot) -> None:
    told = message(digest_of(line, POLICY, OPEN_SALE))

    assert (told.incarnation, told.sale_state, told.total_waiting) == (77, pb.SALE_STATE_OPEN, 5_000)
    assert (told.seats_left, told.draw_key, told.HasField("in_draw")) == (40, bytes(32), False)
    (lane,) = told.lanes
    assert (lane.lane, lane.waiting, lane.watermark, len(lane.front)) == (0, 5_000, 9, 1_000)
    assert (lane.samples[-1], lane.sample_positions[-1]) == (5_009, 5_000)
    assert (lane.forecast[0].position, lane.forecast[-1].position) == (1, 5_001)
    assert told.ByteSize() < 30_000


@pytest.mark.parametrize(
    ("changes", "mode", "opens_in", "state"),
    [
        ({"sold_out": True}, Mode.OPEN, 0, SaleState.SOLD_OUT),
        ({"incarnation": 0}, Mode.OPEN, 60, SaleState.RESTORING),
        ({"restoring": True}, Mode.OPEN, 0, SaleState.RESTORING),
        ({"draw_held": False}, Mode.OPEN, 60, SaleState.SCHEDULED),
        ({"draw_held": False}, Mode.OPEN, 0, SaleState.DRAWING),
        ({}, Mode.HOLD, 0, SaleState.HELD),
        ({}, Mode.DRAIN, 0, SaleState.OPEN),
    ],
)
def test_the_digest_tells_how_the_sale_goes(
    line: LineSnapshot, changes: dict[str, Any], mode: Mode, opens_in: int, state: SaleState
) -> None:
    sale = replace(OPEN_SALE, open_time=line.now + timedelta(seconds=opens_in))

    assert digest_of(replace(line, **changes), replace(POLICY, mode=mode), sale).state == state


def test_lanes_are_told_by_name_and_one_that_is_gone_until_it_is_empty(line: LineSnapshot) -> None:
    crowded = replace(line, lanes={**line.lanes, 2: line.lanes[0]})
    policy = replace(POLICY, lanes=(Lane(0, "everyone", 1), Lane(3, "members", 4)))

    told = message(digest_of(crowded, policy, OPEN_SALE))

    assert [(lane.lane, lane.name) for lane in told.lanes] == [(0, "everyone"), (2, "2"), (3, "members")]


def test_everyone_in_the_draw_is_told_the_same_and_the_opening_counts(line: LineSnapshot) -> None:
    scheduled = replace(line, draw_held=False, entrants=1_000, lanes={0: replace(line.lanes[0], scores=_NOBODY)})
    sale = replace(OPEN_SALE, open_time=line.now + timedelta(seconds=100))

    told = message(digest_of(scheduled, replace(POLICY, rate_per_second=10.0), sale))

    assert told.total_waiting == 1_000
    forecast = told.in_draw
    assert forecast.position == 0
    # Places are called from 100 s to 200 s from now on, each with the same chance.
    assert 105 < forecast.eta_p10_seconds < 115
    assert 145 < forecast.eta_p50_seconds < 155
    assert 185 < forecast.eta_p90_seconds < 215


_NOBODY: Final = LaneScores(0, [], [], [])


def test_what_is_told_between_two_positions_is_interpolated() -> None:
    table = ForecastTable([10, 20], [Told(1, 2, 3, 1.0, 1_000), Told(2, 4, 8, 0.5, 2_000)])

    assert told_at(15, table) == Told(1.5, 3, 5.5, 0.75, 1_500)
    assert [told_at(position, table).eta_p50_seconds for position in (1, 10, 20, 99)] == [2, 2, 4, 4]
