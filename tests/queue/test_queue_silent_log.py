"""An event log that is away costs time, and nobody their place: without it no token can be answered."""

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import PlaceState
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import Fact, FactKind
from tests.queue.lines import (
    EVENT,
    LOG_PATIENCE,
    POLICY,
    age_facts,
    called,
    join_all,
    run_out,
    state,
    store_of,
    tick,
    without_guard,
)

READY, WAITING, ADMITTED, EXPIRED = PlaceState.READY, PlaceState.WAITING, PlaceState.ADMITTED, PlaceState.EXPIRED


async def _facts(store: LineStore) -> list[Fact]:
    return await store.unpublished(EVENT, 1_000)


async def _is_told(store: LineStore) -> None:
    """The log is back."""
    await store.forget(EVENT, await _facts(store))


async def _called_in_an_outage(redis: Redis) -> tuple[LineStore, int]:
    """One was called before, whose window ends in it; others wait, and there is room for them."""
    store = store_of(redis)
    await join_all(store, (1,))
    await tick(store)
    await join_all(store, (2, 3))
    await age_facts(redis)
    await run_out(redis, 1)
    count = 0
    for _ in range(3):
        count += (await tick(store)).called
    return store, count


async def test_nobody_is_called_and_no_window_ends_while_facts_are_not_told(redis: Redis) -> None:
    store, count = await _called_in_an_outage(redis)

    assert count == 0
    assert [await state(store, user) for user in (1, 2)] == [READY, WAITING]
    await _is_told(store)
    await run_out(redis, 1)  # the window is whole, even if it had ended by now
    assert (after := await tick(store)).called == 2
    assert (after.lapsed.prolonged, after.lapsed.missed) == (1, 0)
    line, standing = await store.read(EVENT, 1)
    assert standing
    assert standing.until
    assert POLICY.claim_window - timedelta(seconds=10) < standing.until - line.now <= POLICY.claim_window


async def test_control_without_the_look_at_the_outbox_people_are_called_for_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "admit", "is_told and ")

    _, count = await _called_in_an_outage(redis)

    assert count == 2


async def test_control_without_the_look_at_the_outbox_windows_end_for_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "prolong", "in_hold or is_silent", "in_hold")

    store, _ = await _called_in_an_outage(redis)

    assert await state(store, 1) is WAITING  # missed


async def test_facts_that_are_a_moment_old_stop_nobody(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, (1,))
    await tick(store)
    await age_facts(redis, LOG_PATIENCE / 2)
    await join_all(store, (2,))
    await run_out(redis, 1)

    assert ((after := await tick(store)).called, after.lapsed.missed) == (1, 1)


async def _admitted_long_ago(redis: Redis, user: int, left: timedelta) -> None:
    """As if most of the time of an admission were over."""
    places, admitted = line_key(EVENT, "places"), line_key(EVENT, "admitted")
    record = cast("bytes", await cast("Any", redis.hget(places, str(user)))).decode()
    letter, score, until_ms, since_ms, calls = record.split(":")
    ago_ms = (POLICY.admission - left) // timedelta(milliseconds=1)
    ends = int(until_ms) - ago_ms
    await cast("Any", redis.hset(places, str(user), f"{letter}:{score}:{ends}:{int(since_ms) - ago_ms}:{calls}"))
    await redis.zadd(admitted, {str(user): ends})


async def test_an_admission_whose_token_was_never_answered_begins_anew(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, (1, 2))
    await tick(store)
    await store.claim(EVENT, 2)
    await _is_told(store)  # the second one has a token
    await _admitted_long_ago(redis, 2, timedelta(seconds=2))
    before = await store.claim(EVENT, 1)
    await _admitted_long_ago(redis, 1, timedelta(seconds=10))
    await age_facts(redis, POLICY.admission - timedelta(seconds=5))

    await tick(store)

    facts = [fact for fact in await _facts(store) if fact.kind is FactKind.ADMITTED]
    assert [fact.user_id for fact in facts] == [1, 1]
    again = await store.claim(EVENT, 1)
    assert not again.fresh
    assert again.since > before.since - POLICY.admission
    assert (again.since, again.until) == (facts[1].time, facts[1].until)
    assert again.until - again.since == POLICY.admission
    # Whoever has a token has had their time.
    await run_out(redis, 2)
    await tick(store)
    assert [await state(store, user) for user in (1, 2)] == [ADMITTED, EXPIRED]


async def test_who_is_called_again_after_an_outage_is_in_order(redis: Redis) -> None:
    store, _ = await _called_in_an_outage(redis)
    await _is_told(store)

    await tick(store)

    assert await called(store) == [2, 3]
