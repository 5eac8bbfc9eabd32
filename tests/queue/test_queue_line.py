"""Joining, leaving, claiming, finishing: the transitions of one place."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import (
    Mode,
    NotBuilt,
    PlaceNotFound,
    PlaceNotReady,
    PlaceState,
    Sale,
    SaleClosed,
    SoldOut,
)
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import JoinCommand, Joined, Progress, Proof, Purchase
from tests.queue.lines import (
    EVENT,
    OPEN_SALE,
    POLICY,
    build,
    called,
    join,
    join_all,
    readings,
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


async def test_claiming_is_refused_before_the_call_and_after_the_window(redis: Redis) -> None:
    store = store_of(redis)
    await build(redis)
    with pytest.raises(PlaceNotFound):
        await store.claim(EVENT, 1)
    await join(store, 1)
    with pytest.raises(PlaceNotReady):
        await store.claim(EVENT, 1)
    await tick(store)
    await run_out(redis, 1)
    with pytest.raises(PlaceNotReady):
        await store.claim(EVENT, 1)
    await tick(store)
    with pytest.raises(PlaceNotReady):
        await store.claim(EVENT, 1)


async def test_claiming_again_finds_the_same_admission(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)
    await tick(store)

    admissions = await asyncio.gather(*(store.claim(EVENT, 1) for _ in range(20)))

    assert sum(each.fresh for each in admissions) == 1
    assert len({(each.until, each.since, each.score) for each in admissions}) == 1
    assert admissions[0].until - admissions[0].since == timedelta(minutes=2)
    assert await state(store, 1) is PlaceState.ADMITTED


@pytest.mark.parametrize("steps", ["join", "join call", "join call claim"])
async def test_leaving_ends_a_live_place_once_and_frees_its_slot_at_once(redis: Redis, steps: str) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2))
    if "call" in steps:
        await tick(store)
    if "claim" in steps:
        await store.claim(EVENT, 1)

    assert await store.leave(EVENT, 1)
    assert not await store.leave(EVENT, 1)

    assert await state(store, 1) is PlaceState.LEFT
    await tick(store)
    assert await state(store, 2) is PlaceState.READY


async def test_leaving_without_a_place_does_nothing(redis: Redis) -> None:
    await build(redis)
    before = await redis.keys("*")
    assert not await store_of(redis).leave(EVENT, 1)
    assert await redis.keys("*") == before


async def test_a_line_that_is_not_there_is_served_to_nobody(redis: Redis) -> None:
    store = LineStore(redis, POLICY)
    for step in (join(store, 1), store.read(EVENT, 1), store.claim(EVENT, 1), store.leave(EVENT, 1)):
        with pytest.raises(NotBuilt):
            await step
    assert isinstance((await store.admit_many({EVENT: OPEN_SALE}))[EVENT], NotBuilt)

    assert await store.build(EVENT, restoring=False)
    assert not await store.build(EVENT, restoring=False)
    assert (await join(store, 1)).fresh
    assert await store.upkeep.active_events() == [EVENT]


async def test_buying_ends_the_place_once_and_frees_its_slot_at_once(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2))
    await tick(store)
    await store.claim(EVENT, 1)
    bought = Purchase(EVENT, 1, datetime.now(UTC))

    assert await store.finish_many([bought, bought]) == {EVENT: 1}

    assert await state(store, 1) is PlaceState.DONE
    await tick(store)
    assert await state(store, 2) is PlaceState.READY


async def test_an_old_purchase_told_again_does_not_end_a_later_admission(redis: Redis) -> None:
    store = store_of(redis)
    old = Purchase(EVENT, 1, datetime.now(UTC) - timedelta(seconds=30))
    await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)

    assert await store.finish_many([old]) == {EVENT: 0}

    assert await state(store, 1) is PlaceState.ADMITTED


async def test_an_old_purchase_told_again_does_not_finish_a_later_place_that_ran_out(redis: Redis) -> None:
    store = store_of(redis)
    old = Purchase(EVENT, 1, datetime.now(UTC) - timedelta(seconds=30))
    await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)
    await run_out(redis, 1)
    await tick(store)

    assert await store.finish_many([old]) == {EVENT: 0}

    assert await state(store, 1) is PlaceState.EXPIRED


async def test_who_paid_after_the_admission_ran_out_is_done(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)
    await tick(store)
    await store.claim(EVENT, 1)
    await run_out(redis, 1)
    await tick(store)
    assert await state(store, 1) is PlaceState.EXPIRED

    await store.finish_many([Purchase(EVENT, 1, datetime.now(UTC))])

    assert await state(store, 1) is PlaceState.DONE


async def test_a_waiting_place_outlives_a_purchase_and_nobody_is_finished_who_was_never_inside(redis: Redis) -> None:
    store = store_of(redis)
    await join(store, 1)

    assert await store.finish_many([Purchase(EVENT, user, datetime.now(UTC)) for user in (1, 2)]) == {EVENT: 0}

    assert await state(store, 1) is PlaceState.WAITING


async def test_a_closed_sale_and_a_draining_line_take_nobody_new_but_know_their_own(redis: Redis) -> None:
    closed = Sale(OPEN_SALE.open_time, datetime(2021, 1, 1, tzinfo=UTC))
    open_store, draining = store_of(redis), store_of(redis, mode=Mode.DRAIN)
    first = await join(open_store, 1)

    with pytest.raises(SaleClosed):
        await join(open_store, 2, sale=closed)
    with pytest.raises(SaleClosed):
        await join(draining, 2)
    assert (await join(draining, 1)).score == first.score
    assert (await join(open_store, 1, sale=closed)).score == first.score


def _progress(sold: int, at: datetime) -> Progress:
    return Progress(EVENT, at, seats_total=10, seats_left=10 - sold, seats_sold=sold)


async def test_sold_out_stops_joins_and_calls_and_the_newest_count_wins(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2))
    now = datetime.now(UTC)
    await store.set_progress_many([_progress(10, now), _progress(9, now - timedelta(seconds=1))])

    assert (await tick(store)).called == 0
    with pytest.raises(SoldOut):
        await join(store, 3)
    line, _ = await store.read(EVENT, 1)
    assert (line.sold_out, line.seats_left) == (True, 0)

    # Money back, and a seat is free again.
    await store.set_progress_many([_progress(9, now + timedelta(seconds=1))])
    assert (await tick(store)).called == 1


async def test_positions_are_exact(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, range(1, 1201))
    for user in range(3, 1201, 3):
        await store.leave(EVENT, user)
    staying = [user for user in range(1, 1201) if user % 3]

    line, standings = (await readings(store, {EVENT: range(1, 1301)}))[EVENT]

    assert line.total_waiting == len(staying) == 800
    assert [standings[user].ahead for user in staying if standings[user]] == list(range(800))  # type: ignore[union-attr] # filtered
    assert {standings[user].state for user in range(3, 1201, 3)} == {PlaceState.LEFT}  # type: ignore[union-attr] # they left
    assert {standings[user] for user in range(1201, 1301)} == {None}


async def test_a_refusal_concerns_only_its_own_caller(redis: Redis) -> None:
    draining = store_of(redis, mode=Mode.DRAIN)
    proofs = [Proof(1_000 + user, 1_000 + user) if user % 2 else None for user in range(10)]

    answers = await draining.join_many(
        [JoinCommand(EVENT, user, OPEN_SALE, proof) for user, proof in enumerate(proofs)]
    )

    assert [isinstance(answer, SaleClosed) for answer in answers] == [proof is None for proof in proofs]


async def test_many_joins_of_many_events_are_answered_in_their_order(redis: Redis) -> None:
    store = store_of(redis)
    others = (EVENT + 1, EVENT)
    commands = [JoinCommand(others[user % 2], user, OPEN_SALE) for user in range(1, 1_201)]

    joined = await store.join_many(commands)

    assert all(isinstance(each, Joined) for each in joined)
    for event_id in others:
        scores = [each.score for each, wish in zip(joined, commands, strict=True) if wish.event_id == event_id]  # type: ignore[union-attr] # as was asserted
        assert scores == sorted(set(scores))
