"""What tests of the line share: a store, people, and ways to let time pass without waiting for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.queue.line import joining, ticking
from services.queue.line import store as store_module
from services.queue.line.domain import Mode, NotBuilt, PlaceState, Policy, Sale
from services.queue.line.replies import Reading
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import FactKind, JoinCommand, Joined, Proof, Tick
from tests import support

EVENT = 7
OPEN_SALE = Sale(open_time=datetime(2020, 1, 1, tzinfo=UTC), close_time=datetime(2999, 1, 1, tzinfo=UTC))
POLICY = Policy(Mode.OPEN, 10_000.0, 1_000_000, timedelta(minutes=1), timedelta(minutes=2))
LOG_PATIENCE = timedelta(minutes=1)


class SelfBuilding(LineStore):
    """A store that builds a line which is not there when somebody joins, as a waiting room has it built."""

    async def join_many(self, commands: Sequence[JoinCommand]) -> list[Joined | Exception]:
        joined = await super().join_many(commands)
        unbuilt = {each.event_id for each, answer in zip(commands, joined, strict=True) if isinstance(answer, NotBuilt)}
        for event_id in unbuilt:
            await build(self._redis, event_id)
        return await super().join_many(commands) if unbuilt else joined


def store_of(redis: Redis, **changes: Any) -> LineStore:
    """A store as another process would have it, with changes to an open policy without narrow bounds.

    It is patient: most tests have nobody who tells facts to a log.
    """
    return SelfBuilding(redis, replace(POLICY, **changes), log_patience=LOG_PATIENCE)


async def build(redis: Redis, event_id: int = EVENT, *, is_held: bool = True) -> None:
    """Has a new line there, of which the draw was held long ago, or is still to be held."""
    await LineStore(redis, POLICY).build(event_id, restoring=False)
    if not is_held:
        return
    held: dict[Any, Any] = {"closed_ms": 1, "held_ms": 1, "entrant_count": 0}
    await cast("Any", redis.hset(line_key(event_id, "draw"), mapping=held))


async def join(
    store: LineStore,
    user_id: int,
    *,
    sale: Sale = OPEN_SALE,
    restore: int | None = None,
    proof: Proof | None = None,
    lane: int | None = None,
) -> Joined:
    """Joins; `restore` is the score, and time of joining, of a verified place in lane 0."""
    if restore is not None:
        proof = Proof(restore, restore)
    return await store.join(JoinCommand(EVENT, user_id, sale, proof, lane))


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
    facts = await store.unpublished(EVENT, 1_000_000)
    return [fact.user_id for fact in facts if fact.kind is FactKind.CALLED]


async def run_out(redis: Redis, user_id: int) -> None:
    """Lets the claim window or admission of someone end now."""
    places = line_key(EVENT, "places")
    record = cast("bytes", await cast("Any", redis.hget(places, str(user_id))))
    letter, score, _, since, calls = record.decode().split(":")
    await cast("Any", redis.hset(places, str(user_id), f"{letter}:{score}:1:{since}:{calls}"))
    for name in ("ready", "admitted", "missed"):
        await redis.zadd(line_key(EVENT, name), {str(user_id): 1}, xx=True)


async def end_restoring(redis: Redis) -> None:
    """Lets the time run out in which nobody is called because places come back."""
    await cast("Any", redis.hset(line_key(EVENT, "line"), "restoring_until_ms", 1))


async def pass_time(redis: Redis, seconds: float) -> None:
    """Lets the bucket of the rate believe that so much time has passed since the last tick."""
    line = line_key(EVENT, "line")
    for field in ("ticked_us", "observed_us"):
        moment = int(cast("bytes", await cast("Any", redis.hget(line, field))))
        await cast("Any", redis.hset(line, field, moment - round(seconds * 1_000_000)))


def without_guard(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, guard: str, instead: str = "") -> None:
    """Has the store run a variant of a script that lacks a guard: the control of a race test."""
    attribute = f"_{name.upper()}"
    module = next(each for each in (joining, ticking, store_module) if hasattr(each, attribute))
    support.without_guard(monkeypatch, folder, module, attribute, guard, instead)


async def age_facts(redis: Redis, by: timedelta = LOG_PATIENCE) -> None:
    """Lets the facts that are not told be older, as if the event log had been away so long."""
    outbox = line_key(EVENT, "outbox")
    entries: Any = await redis.xrange(outbox)
    await redis.delete(outbox)
    for entry_id, fields in entries:
        ms, number = entry_id.decode().split("-")
        await redis.xadd(outbox, fields, id=f"{int(ms) - by // timedelta(milliseconds=1)}-{number}")
