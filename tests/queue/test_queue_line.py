"""Leaving, claiming, finishing: what becomes of a place, and what the line tells."""

import asyncio
from datetime import UTC, datetime, timedelta

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
from tests.queue.lines import EVENT, OPEN_SALE, POLICY, build, join, join_all, readings, run_out, state, store_of, tick

USERS = line_key(EVENT, "users")


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
