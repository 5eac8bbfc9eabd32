"""A hold: nobody is called, and nobody loses a place to it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import Mode, Place, PlaceState, Sale, tell
from services.queue.line.store import LineStore, line_key
from tests.queue.lines import (
    EVENT,
    OPEN_SALE,
    POLICY,
    called,
    join_all,
    pass_time,
    run_out,
    state,
    store_of,
    tick,
    without_guard,
)

WINDOW = POLICY.claim_window


async def _told(store: LineStore, user: int) -> tuple[Place, timedelta]:
    """A place, and how long its owner is told that there is."""
    line, standing = await store.read(EVENT, user)
    assert standing
    place = tell(standing, line, OPEN_SALE)
    return place, (place.until - line.now if place.until else timedelta())


async def _called_and_out_of_time(redis: Redis, store: LineStore) -> None:
    """The first is called, and the window is over when the next tick comes by; the second waits."""
    await join_all(store, (1, 2))
    await tick(store)
    await run_out(redis, 1)


async def _states_after_a_hold(redis: Redis) -> list[PlaceState | None]:
    store, held = store_of(redis, inside_cap=1), store_of(redis, inside_cap=1, mode=Mode.HOLD)
    await _called_and_out_of_time(redis, store)
    await tick(held)
    during = await state(held, 1)
    if during is PlaceState.READY:
        await run_out(redis, 1)
    await tick(store)
    return [during, await state(store, 1), await state(store, 2)]


async def test_no_claim_window_ends_in_a_hold_nor_when_it_ends(redis: Redis) -> None:
    ready, waiting = PlaceState.READY, PlaceState.WAITING
    assert await _states_after_a_hold(redis) == [ready, ready, waiting]
    assert await called(store_of(redis)) == [1]


async def test_control_without_the_look_at_the_mode_a_hold_costs_a_place(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "prolong", "(mode or default_mode) == 'HOLD' and now_ms < close_ms", "false")

    assert await _states_after_a_hold(redis) == [PlaceState.WAITING, PlaceState.WAITING, PlaceState.READY]


async def test_after_a_hold_there_is_a_whole_window_and_it_is_told(redis: Redis) -> None:
    store, held = store_of(redis), store_of(redis, mode=Mode.HOLD, claim_window=WINDOW / 4)
    await join_all(store, (1,))
    await tick(held)
    await tick(store)
    short = store_of(redis, claim_window=WINDOW / 4)
    await join_all(short, (2,))
    await tick(short)  # with a quarter of the window, which the hold does not touch until it is short
    assert (await _told(short, 2))[1] <= WINDOW / 4

    assert (await tick(held)).lapsed.prolonged == 0
    assert (await _told(held, 2))[1] <= WINDOW / 4
    assert (await tick(store)).lapsed.prolonged == 2

    for user in (1, 2):
        place, left = await _told(store, user)
        assert place.state is PlaceState.READY
        assert WINDOW - timedelta(seconds=5) < left <= WINDOW
    assert (await tick(store)).lapsed.prolonged == 0


async def test_who_is_called_later_has_the_window_of_their_call_and_it_ends(redis: Redis) -> None:
    store, held = store_of(redis), store_of(redis, mode=Mode.HOLD)
    await join_all(store, (1,))
    await tick(held)
    await tick(store)
    # A window after the hold, and later.
    await cast("Any", redis.hset(line_key(EVENT, "line"), "windows_until_ms", 1))
    await run_out(redis, 1)

    assert (await tick(store)).lapsed.missed == 1
    assert await state(store, 1) is PlaceState.WAITING


async def test_a_place_that_was_called_can_be_claimed_in_a_hold(redis: Redis) -> None:
    store, held = store_of(redis), store_of(redis, mode=Mode.HOLD)
    await _called_and_out_of_time(redis, store)
    await tick(held)

    admission = await held.claim(EVENT, 1)

    assert await state(held, 1) is PlaceState.ADMITTED
    await run_out(redis, 1)
    assert admission.fresh
    assert (await tick(held)).expired == 1  # the minutes at the seats go on


async def test_a_hold_ends_with_its_sale(redis: Redis) -> None:
    store, held = store_of(redis, inside_cap=1), store_of(redis, mode=Mode.HOLD)
    await _called_and_out_of_time(redis, store)

    over = await tick(held, Sale(OPEN_SALE.open_time, datetime(2021, 1, 1, tzinfo=UTC)))

    assert (over.lapsed.missed, over.inside) == (1, 0)


async def test_more_windows_than_fit_into_one_tick_are_all_kept(redis: Redis) -> None:
    store, held = store_of(redis), store_of(redis, mode=Mode.HOLD)
    people = range(1, 601)
    await join_all(store, people)
    while (await tick(store)).is_full:
        await pass_time(redis, 1.0)
    await tick(held)
    for user in people:
        await run_out(redis, user)

    after = await tick(store)
    assert (after.lapsed.missed, after.lapsed.prolonged, after.is_full) == (0, 250, True)
    while (await tick(store)).is_full:
        pass
    assert {await state(store, user) for user in people} == {PlaceState.READY}
