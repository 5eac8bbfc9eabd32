"""Admission: bounds that hold however many loops run, slots that come back, calls that are never lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boxoffice.queue.v1 import queue_events_pb2 as pb
from redis.asyncio import Redis

from services.common.eventlog import open_event_log
from services.common.eventlog.port import EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS, TOPICS
from services.queue.admission.publisher import FactPublisher
from services.queue.line.domain import Mode, PlaceState, Policy, PolicyOutOfRange, Sale
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import Fact
from tests.queue.lines import (
    EVENT,
    OPEN_SALE,
    POLICY,
    build,
    called,
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

    before, after = await store.set_policy(EVENT, wanted, {"mode"})
    assert (before, after.mode, after.inside_cap) == (POLICY, Mode.HOLD, POLICY.inside_cap)
    assert (await tick(store)).called == 0

    everything = {"mode", "rate_per_second", "inside_cap", "claim_window", "admission"}
    opened = Policy(Mode.OPEN, 3.0, 2, timedelta(seconds=20), timedelta(seconds=40))
    assert await store.set_policy(EVENT, opened, everything) == (after, opened)
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


async def test_live_lines_are_ticked_until_they_are_quiet_for_a_minute(redis: Redis) -> None:
    store = store_of(redis)
    await store.activate(EVENT)
    assert await store.active_events() == [EVENT]
    assert not await store.retire(EVENT, over=False)

    await redis.zadd("queue:active", {str(EVENT): time.time() * 1000 - 61_000})
    assert await store.retire(EVENT, over=False)
    assert await store.active_events() == []


async def test_a_line_that_is_over_is_forgotten_in_a_week(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2, 3))
    await tick(store)
    await store.leave(EVENT, 1)
    await store.set_policy(EVENT, POLICY, {"mode"})

    await redis.zadd("queue:active", {str(EVENT): 1})
    assert await store.retire(EVENT, over=True)

    async def left() -> dict[bytes | str, int]:
        return {key: await redis.pttl(key) for key in await redis.keys(f"queue:{{{EVENT}}}:*")}

    keys = await left()
    assert {line_key(EVENT, name) for name in ("users", "places", "line", "policy", "draw", "outbox")} <= keys.keys()
    week = timedelta(days=7) / timedelta(milliseconds=1)
    assert all(week - 60_000 < each <= week for each in keys.values())

    await store.activate(EVENT)  # the sale goes on after all
    assert set((await left()).values()) == {-1}


# --- calls are told --------------------------------------------------------------------------------------------------


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics(TOPICS)
        yield opened


async def _told(log: EventLog) -> list[pb.QueueEvent]:
    async with log.reader("test", [QUEUE_EVENTS]) as reader:
        records = await reader.read(1000, timedelta(milliseconds=200))
    assert {record.key for record in records} <= {str(EVENT)}
    return [event for record in records for event in pb.QueueEvents.FromString(record.value).events]


async def test_a_call_outlives_a_crash_before_it_is_told(redis: Redis, other_redis: Redis, log: EventLog) -> None:
    crashed = store_of(redis)
    await join_all(crashed, (1, 2, 3))
    await tick(crashed)
    calls = await crashed.unpublished(EVENT, 10)

    # Another process finds them by its next tick, which has nobody left to call.
    survivor = store_of(other_redis)
    assert (await tick(survivor)).unpublished == 3
    async with log.writer() as writer:
        await FactPublisher(survivor, writer).publish(EVENT)

    told = await _told(log)
    assert [(fact.id, fact.place_called.user_id) for fact in told] == [(call.fact_id, call.user_id) for call in calls]
    assert [fact.place_called.claim_expire_time.ToDatetime(UTC) for fact in told] == [call.until for call in calls]
    assert (await tick(survivor)).unpublished == 0


class _CrashAfterAppend(LineStore):
    async def forget(self, event_id: int, facts: Sequence[Fact]) -> None:
        raise ConnectionError(event_id, len(facts))


async def test_a_crash_after_telling_tells_again_with_the_same_ids(redis: Redis, log: EventLog) -> None:
    await build(redis)
    crashing = _CrashAfterAppend(redis, POLICY)
    await join_all(crashing, (1, 2))
    await tick(crashing)
    async with log.writer() as writer:
        with pytest.raises(ConnectionError):
            await FactPublisher(crashing, writer).publish(EVENT)
        await FactPublisher(store_of(redis), writer).publish(EVENT)

    ids = [fact.id for fact in await _told(log)]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]


async def test_two_publishers_at_once_lose_nothing(redis: Redis, other_redis: Redis, log: EventLog) -> None:
    stores = store_of(redis), store_of(other_redis)
    await join_all(stores[0], range(1, 301))
    async with log.writer() as writer:
        publishers = [FactPublisher(store, writer) for store in stores]
        for store in stores * 2:
            await tick(store)
            await asyncio.gather(*(publisher.publish(EVENT) for publisher in publishers))

    assert {fact.place_called.user_id for fact in await _told(log)} == set(range(1, 301))
    assert await called(stores[0]) == []


class _AwayAtFirst:
    """An event log that is away for the first attempt."""

    def __init__(self, writer: EventLogWriter) -> None:
        self._writer = writer
        self.attempts = 0

    async def append(self, *record: object) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise EventLogUnavailable
        await self._writer.append(*record)  # type: ignore[arg-type] # passed on as it came


async def test_calls_wait_while_the_event_log_is_away(redis: Redis, log: EventLog) -> None:
    store = store_of(redis)
    await join_all(store, (1,))
    await tick(store)
    async with log.writer() as writer:
        flaky = _AwayAtFirst(writer)
        publisher = FactPublisher(store, flaky)  # type: ignore[arg-type] # the one method that is used
        running = asyncio.create_task(publisher.run())
        while (await tick(store)).unpublished:
            publisher.nudge(EVENT)
            await asyncio.sleep(0.01)
        running.cancel()

    assert flaky.attempts == 2
    assert [fact.place_called.user_id for fact in await _told(log)] == [1]
