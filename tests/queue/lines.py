"""What tests of the line share: a store, people, and ways to let time pass without waiting for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line import store as store_module
from services.queue.line.domain import Mode, PlaceState, Policy, Sale
from services.queue.line.replies import Reading
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import JoinCommand, Joined, Tick
from tests import support

EVENT = 7
OPEN_SALE = Sale(open_time=datetime(2020, 1, 1, tzinfo=UTC), close_time=datetime(2999, 1, 1, tzinfo=UTC))
POLICY = Policy(Mode.OPEN, 10_000.0, 1_000_000, timedelta(minutes=1), timedelta(minutes=2))


def store_of(redis: Redis, **changes: Any) -> LineStore:
    """A store as another process would have it, with changes to an open policy without narrow bounds."""
    return LineStore(redis, replace(POLICY, **changes))


async def join(store: LineStore, user_id: int, *, sale: Sale = OPEN_SALE, restore: int | None = None) -> Joined:
    return await store.join(JoinCommand(EVENT, user_id, sale, restore))


async def join_all(store: LineStore, users: Iterable[int]) -> None:
    for user_id in users:
        await join(store, user_id)


async def tick(store: LineStore, sale: Sale = OPEN_SALE) -> Tick:
    """One tick of admission of the line."""
    outcome = (await store.admit_many({EVENT: sale}))[EVENT]
    assert isinstance(outcome, Tick), outcome
    return outcome


async def readings(store: LineStore, wanted: Mapping[int, Sequence[int]]) -> dict[int, Reading]:
    """Lines by event, none of which fails."""
    outcomes = await store.read_many(wanted)
    assert not [each for each in outcomes.values() if isinstance(each, Exception)]
    return {event_id: each for event_id, each in outcomes.items() if not isinstance(each, Exception)}


async def state(store: LineStore, user_id: int) -> PlaceState | None:
    line, standing = await store.read(EVENT, user_id)
    return standing.at(line.now) if standing else None


async def called(store: LineStore) -> list[int]:
    """Everyone who was called and not yet told, in order."""
    return [call.user_id for call in await store.unpublished(EVENT, 1_000_000)]


async def run_out(redis: Redis, user_id: int) -> None:
    """Lets the claim window or admission of someone end now."""
    places = line_key(EVENT, "places")
    record = cast("bytes", await cast("Any", redis.hget(places, str(user_id))))
    letter, score, _, since = record.decode().split(":")
    await cast("Any", redis.hset(places, str(user_id), f"{letter}:{score}:1:{since}"))
    for name in ("ready", "admitted"):
        await redis.zadd(line_key(EVENT, name), {str(user_id): 1}, xx=True)


async def pass_time(redis: Redis, seconds: float) -> None:
    """Lets the bucket of the rate believe that so much time has passed since the last tick."""
    line = line_key(EVENT, "line")
    ticked_us = int(cast("bytes", await cast("Any", redis.hget(line, "ticked_us"))))
    await cast("Any", redis.hset(line, "ticked_us", ticked_us - round(seconds * 1_000_000)))


def without_guard(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, guard: str, instead: str = "") -> None:
    """Has the store run a variant of a script that lacks a guard: the control of a race test."""
    support.without_guard(monkeypatch, folder, store_module, f"_{name.upper()}", guard, instead)
