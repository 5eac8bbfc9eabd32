"""What a line keeps, for how long, and until when it is ticked."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from services.queue.admission.lease import Leases, written_fences
from services.queue.admission.nodes import Node
from services.queue.digest.store import DigestStore
from services.queue.line.store import line_key
from services.queue.line.transitions import Progress
from services.queue.line.upkeep import Upkeep
from tests.queue.lines import EVENT, OPEN_SALE, POLICY, build, join_all, store_of, tick

WEEK_MS = timedelta(days=7) // timedelta(milliseconds=1)


async def _left(redis: Redis) -> dict[bytes | str, int]:
    """How long each key of the line stays, ms; -1: for good."""
    return {key: await redis.pttl(key) for key in await redis.keys(f"queue:{{{EVENT}}}:*")}


def _progress(sold: int) -> Progress:
    return Progress(EVENT, datetime.now(UTC), seats_total=10, seats_left=10 - sold, seats_sold=sold)


async def test_live_lines_are_ticked_until_they_are_quiet_for_a_minute(redis: Redis) -> None:
    store = store_of(redis)
    await store.upkeep.activate(EVENT)
    assert await store.upkeep.active_events() == [EVENT]
    assert not await store.upkeep.retire(EVENT, OPEN_SALE.close_time)

    await redis.zadd("queue:active", {str(EVENT): time.time() * 1000 - 61_000})
    assert await store.upkeep.retire(EVENT, OPEN_SALE.close_time)
    assert await store.upkeep.active_events() == []


async def test_a_line_that_is_over_is_forgotten_in_a_week(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2, 3))
    await tick(store)
    await store.leave(EVENT, 1)
    await store.set_policy(EVENT, POLICY, {"mode"})

    await redis.zadd("queue:active", {str(EVENT): 1})
    assert await store.upkeep.retire(EVENT, None)

    keys = await _left(redis)
    assert {line_key(EVENT, name) for name in ("users", "places", "line", "policy", "draw", "outbox")} <= keys.keys()
    assert all(WEEK_MS - 60_000 < each <= WEEK_MS for each in keys.values())

    await store.upkeep.activate(EVENT)  # the sale goes on after all
    assert set((await _left(redis)).values()) == {-1}


async def test_a_quiet_line_of_a_sale_that_goes_on_is_forgotten_a_week_after_its_close(redis: Redis) -> None:
    store, close = store_of(redis), datetime.now(UTC) + timedelta(days=3)
    await build(redis)
    await redis.zadd("queue:active", {str(EVENT): 1})

    assert await store.upkeep.retire(EVENT, close)

    ten_days = timedelta(days=10) / timedelta(milliseconds=1)
    assert all(ten_days - 60_000 < each <= ten_days for each in (await _left(redis)).values())


async def test_a_sale_that_is_sold_out_is_over_though_its_close_is_far_and_people_wait(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2))
    await tick(store)
    await store.set_progress_many([_progress(sold=10)])
    assert not (await tick(store)).is_quiet  # one is inside yet

    await store.leave(EVENT, 1)
    await store.forget(EVENT, await store.unpublished(EVENT, 9))

    after = await tick(store)
    assert (after.over, after.is_quiet, after.waiting) == (True, True, 1)
    await redis.zadd("queue:active", {str(EVENT): 1})
    assert await store.upkeep.retire(EVENT, None)
    await store.set_progress_many([_progress(sold=9)])  # money back, and a seat is there again
    assert await store.upkeep.active_events() == [EVENT]
    assert set((await _left(redis)).values()) == {-1}


async def _activated_while_it_is_retired(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> dict[bytes | str, int]:
    """Another process announces a join between the two steps of the first one."""
    store, other = store_of(redis), store_of(redis)
    await join_all(store, (1,))
    await redis.zadd("queue:active", {str(EVENT): 1})
    conclude = store.upkeep._conclude

    async def late(event_id: int, close_time: datetime | None) -> None:
        await other.upkeep.activate(event_id)
        await conclude(event_id, close_time)

    monkeypatch.setattr(store.upkeep, "_conclude", late)
    await store.upkeep.retire(EVENT, None)
    assert await store.upkeep.active_events() == [EVENT]
    return await _left(redis)


async def test_a_line_that_lives_does_not_expire(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set((await _activated_while_it_is_retired(redis, monkeypatch)).values()) == {-1}


async def test_control_without_the_second_look_a_line_expires_while_it_lives(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unseen(_upkeep: Upkeep, _event_id: int) -> bool:
        return False

    monkeypatch.setattr(Upkeep, "_is_active", unseen)
    assert -1 not in (await _activated_while_it_is_retired(redis, monkeypatch)).values()


async def test_a_line_that_is_ticked_already_is_kept_too(redis: Redis) -> None:
    store = store_of(redis)
    await join_all(store, (1,))
    await redis.pexpire(line_key(EVENT, "users"), 60_000)

    await store.upkeep.activate(EVENT)

    assert set((await _left(redis)).values()) == {-1}


async def test_what_is_written_to_a_line_that_is_over_goes_with_it(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2))
    await tick(store)
    await redis.delete(line_key(EVENT, "outbox"))
    await redis.zadd("queue:active", {str(EVENT): 1})
    await store.upkeep.retire(EVENT, None)

    await DigestStore(redis).snapshot(EVENT)
    await store.set_progress_many([_progress(sold=9)])
    assert {line_key(EVENT, "sale")} <= (await _left(redis)).keys()
    assert -1 not in (await _left(redis)).values()
    later = store_of(redis)  # by another process, or later than an announcement lasts
    await later.leave(EVENT, 2)

    # The fact is to be told: the line is ticked, until it is quiet again.
    assert await store.upkeep.active_events() == [EVENT]
    await redis.zadd("queue:active", {str(EVENT): 1})
    await store.upkeep.retire(EVENT, None)
    assert {line_key(EVENT, name) for name in ("changed", "outbox")} <= (await _left(redis)).keys()
    assert -1 not in (await _left(redis)).values()


async def test_the_count_of_an_event_without_a_line_does_not_stay_for_ever(redis: Redis) -> None:
    await store_of(redis).set_progress_many([_progress(sold=9)])

    assert 0 < await redis.pttl(line_key(EVENT, "sale")) <= WEEK_MS


async def test_a_lease_that_nobody_asks_for_goes_some_day(redis: Redis) -> None:
    await build(redis)
    await Leases([Node(redis)], written_fences(redis)).hold([EVENT])

    assert await redis.pttl(line_key(EVENT, "lease")) > WEEK_MS


async def test_changes_are_forgotten_also_when_nobody_asks_for_a_digest(redis: Redis) -> None:
    store, changed = store_of(redis), line_key(EVENT, "changed")
    await join_all(store, (1, 2, 3))
    for user in (1, 2):
        await store.leave(EVENT, user)
    await tick(store)
    assert await redis.zcard(changed) == 2

    await redis.zadd(changed, {"1": time.time() * 1000 - 61_000})
    await tick(store)

    assert await redis.zrange(changed, 0, -1) == [b"2"]
