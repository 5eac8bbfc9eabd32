"""A token waits for the log: whoever holds one is known there, whatever becomes of Redis."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest
import redis as blocking
from redis.asyncio import Redis

from services.common.errors import Unavailable
from services.common.eventlog import open_event_log
from services.common.eventlog.port import EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import TOPICS
from services.common.keyring import KeyRing
from services.queue.admission.publisher import FactPublisher
from services.queue.catalog import EventCatalog
from services.queue.digest.foresight import Foresight
from services.queue.digest.reader import reader_of
from services.queue.digest.store import DigestStore
from services.queue.line.domain import Mode, PlaceNotReady, PlaceState, Policy, Sale
from services.queue.line.store import LineStore
from services.queue.office import Office
from services.queue.restore.book import LineBook
from services.queue.restore.rebuild import Rebuilder
from services.queue.restore.store import RestoreStore
from services.queue.waiting_room import JoinWish, WaitingRoom
from tests.notify.gate import Door, Gate, gate_to
from tests.queue.flushes import story
from tests.queue.lines import EVENT, OPEN_SALE, store_of, tick
from tests.queue.neighbours import ADMISSION_KEYS, PLACE_KEYS
from tests.support import eventually

PEOPLE = range(1, 101)


class Catalog:
    """One event, which is on sale."""

    async def sale(self, event_id: int) -> Sale:
        assert event_id == EVENT
        return OPEN_SALE


class NoDraw:
    """Nobody joined before the opening."""

    async def restore(self, event_id: int, attempt: str) -> None:
        """Nothing to put back."""


class Counting:
    """A writer that counts its appends."""

    def __init__(self, writer: EventLogWriter) -> None:
        self._writer = writer
        self.appends = 0

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str]) -> None:
        self.appends += 1
        await self._writer.append(topic, key, value, headers)


@pytest.fixture
async def gate(valkey_url: str) -> AsyncIterator[Gate]:
    async with gate_to(valkey_url) as opened:
        yield opened


@pytest.fixture
async def log(gate: Gate, valkey_url: str) -> AsyncIterator[EventLog]:
    """A log in a database of its own, behind a door."""
    with blocking.Redis.from_url(f"{valkey_url.rpartition('/')[0]}/9") as client:
        client.flushdb()
    async with open_event_log(f"{gate.url.replace('http', 'redis')}/9") as opened:
        await opened.create_topics(TOPICS)
        yield opened


@asynccontextmanager
async def _room(redis: Redis, log: EventLog, told: type[FactPublisher] = FactPublisher) -> AsyncIterator[Room]:
    async with log.writer() as writer:
        yield Room(redis, log, writer, told)


class Room:
    """A waiting room, and what is behind it."""

    def __init__(self, redis: Redis, log: EventLog, writer: EventLogWriter, told: type[FactPublisher]) -> None:
        self.redis, self.log, self.proof = redis, log, ""
        # Keys as they were, dumped.
        self.before: dict[bytes | str, bytes] = {}
        self.store: LineStore = store_of(redis)
        self.writer = Counting(writer)
        self.book = LineBook(log, writer, lambda _event_id: b"c" * 32)
        grace, limit = timedelta(seconds=10), timedelta(minutes=5)
        self.rebuilder = Rebuilder(
            RestoreStore(redis), self.book, NoDraw(), activate=self.store.upkeep.activate, grace=grace, limit=limit
        )
        self.publisher = told(self.store, self.writer)  # type: ignore[arg-type] # the one method that is used
        self.publisher.room = self  # type: ignore[attr-defined] # for the one below
        catalog: Any = Catalog()
        ring = KeyRing.parse(PLACE_KEYS)
        catalog = cast("EventCatalog", Catalog())
        self.office = Office(self.store, catalog, self.rebuilder, self.book, ring)
        self.waiting = WaitingRoom(
            self.store,
            catalog,
            self.rebuilder,
            self.publisher,
            place_keys=ring,
            admission_keys=KeyRing.parse(ADMISSION_KEYS),
            foresight=Foresight(reader_of(DigestStore(redis), self.store, catalog)),
        )

    async def call(self, *users: int) -> None:
        """Has them stand in line and be called."""
        for user in users:
            await self.waiting.join(JoinWish(EVENT, user))
        await tick(self.store)

    async def claim(self, user: int) -> str:
        """The token."""
        return (await self.waiting.claim(EVENT, user)).admission_token


async def test_no_token_is_answered_while_the_log_is_away(redis: Redis, log: EventLog, gate: Gate) -> None:
    async with _room(redis, log) as room:
        await room.call(1)
        gate.set(Door.SHUT)
        with pytest.raises(EventLogUnavailable):
            await room.claim(1)
        # The place is claimed all the same: its owner finds the admission, and nobody else gets the slot.
        admitted = await room.waiting.place(EVENT, 1)
        assert admitted.state is PlaceState.ADMITTED

        gate.set(Door.OPEN)
        token = await room.claim(1)
        assert {token, await room.claim(1)} == {token}
        told = await story(log)
        assert [len(when) for when in told.admitted.values()] == [1]
        assert admitted.until == (await room.waiting.place(EVENT, 1)).until


async def test_a_log_that_never_answers_does_not_keep_people_waiting(redis: Redis, log: EventLog, gate: Gate) -> None:
    async with _room(redis, log) as room:
        await room.call(1)
        gate.set(Door.SILENT)
        began = asyncio.get_running_loop().time()
        with pytest.raises(EventLogUnavailable):
            await room.claim(1)
        assert asyncio.get_running_loop().time() - began < 5.0


async def test_whoever_has_a_token_is_in_the_log_and_many_share_an_append(redis: Redis, log: EventLog) -> None:
    async with _room(redis, log) as room:
        await room.call(*PEOPLE)
        before = room.writer.appends

        await asyncio.gather(*map(room.claim, PEOPLE))

        assert set((await story(log)).admitted) == set(PEOPLE)
        assert room.writer.appends - before <= 5


class LosesRedis(FactPublisher):
    """Redis is lost, and the line rebuilt, after a claim and before the log has its fact."""

    async def told(self, event_id: int) -> None:
        room: Room = self.room  # type: ignore[attr-defined] # set by Room
        assert len(await room.store.unpublished(EVENT, 100)) == 2
        await room.redis.flushdb()
        back = await room.waiting.join(room.waiting.wish(EVENT, 1, room.proof))
        assert back.place.state is PlaceState.WAITING
        await super().told(event_id)


async def test_no_token_of_an_admission_that_the_rebuilt_line_does_not_know(redis: Redis, log: EventLog) -> None:
    async with _room(redis, log, LosesRedis) as room:
        room.proof = (await room.waiting.join(JoinWish(EVENT, 1))).signed_place
        await room.call(1)

        with pytest.raises(Unavailable, match="lost just now"):
            await room.claim(1)


class FailsOver(FactPublisher):
    """A replica takes over after a claim, which it does not know: it is the same line as it was before."""

    async def told(self, event_id: int) -> None:
        room: Room = self.room  # type: ignore[attr-defined] # set by Room
        before, room.before = room.before, {}
        for key, value in before.items():
            await room.redis.restore(key, 0, value, replace=True)
        await super().told(event_id)


async def test_no_token_of_an_admission_that_a_replica_does_not_know(redis: Redis, log: EventLog) -> None:
    async with _room(redis, log, FailsOver) as room:
        await room.call(1)
        room.before = {key: cast("bytes", await redis.dump(key)) for key in await redis.keys(f"queue:{{{EVENT}}}:*")}

        with pytest.raises(Unavailable, match="lost just now"):
            await room.claim(1)

        assert (await room.waiting.place(EVENT, 1)).state is PlaceState.READY
        token = await room.claim(1)
        assert {token, await room.claim(1)} == {token}
        assert [len(when) for when in (await story(log)).admitted.values()] == [1]


class LetsLeave(FactPublisher):
    """The owner gives up on another device while the log is asked."""

    async def told(self, event_id: int) -> None:
        room: Room = self.room  # type: ignore[attr-defined] # set by Room
        await room.waiting.leave(event_id, 1)
        await super().told(event_id)


async def test_no_token_of_an_admission_that_was_given_up_meanwhile(redis: Redis, log: EventLog) -> None:
    async with _room(redis, log, LetsLeave) as room:
        await room.call(1)
        with pytest.raises(Unavailable):
            await room.claim(1)
        with pytest.raises(PlaceNotReady):
            await room.claim(1)


async def test_a_change_of_the_rules_is_answered_when_the_log_has_it(redis: Redis, log: EventLog, gate: Gate) -> None:
    async with _room(redis, log) as room:
        changed = await room.office.update_policy(EVENT, 1, {"inside_cap": 5})
        assert (await room.book.memory(EVENT)).policy == changed

        gate.set(Door.SHUT)
        with pytest.raises(EventLogUnavailable):
            await room.office.update_policy(EVENT, 1, {"inside_cap": 6})
        gate.set(Door.OPEN)
        await redis.flushdb()
        assert (await room.office.policy(EVENT)).inside_cap == 5
        # The rules of a lost line are not known before it is built.
        assert (await room.store.read(EVENT, 1))[0].is_restoring


class Late(LineBook):
    """What is told of a change arrives when somebody lets it."""

    may_go_on: ClassVar[asyncio.Event]

    async def runs(self, event_id: int, policy: Policy, version: int) -> None:
        await self.may_go_on.wait()
        await super().runs(event_id, policy, version)


async def _mode_after_a_loss(room: Room, redis: Redis) -> Mode:
    """One operator opens the line; then another holds it, and is told of first. Then Redis is lost."""
    Late.may_go_on = asyncio.Event()
    catalog = cast("EventCatalog", Catalog())
    late = Late(room.log, cast("EventLogWriter", room.writer), lambda _event_id: b"c" * 32)
    slow = Office(room.store, catalog, room.rebuilder, late, KeyRing.parse(PLACE_KEYS))
    opening = asyncio.create_task(slow.update_policy(EVENT, 1, {"mode": Mode.OPEN, "inside_cap": 5}))

    async def is_open() -> bool:
        return (await room.store.policy(EVENT)).inside_cap == 5

    await eventually(is_open)
    await room.office.update_policy(EVENT, 2, {"mode": Mode.HOLD})
    Late.may_go_on.set()
    await opening
    await redis.flushdb()
    return (await room.office.policy(EVENT)).mode


async def test_the_policy_that_comes_back_is_the_newest(redis: Redis, log: EventLog) -> None:
    async with _room(redis, log) as room:
        assert await _mode_after_a_loss(room, redis) is Mode.HOLD


async def test_control_without_the_versions_it_is_the_one_that_was_told_last(
    redis: Redis, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = LineBook.runs

    async def unnumbered(self: LineBook, event_id: int, policy: Policy, _version: int) -> None:
        await runs(self, event_id, policy, 0)

    monkeypatch.setattr(LineBook, "runs", unnumbered)
    async with _room(redis, log) as room:
        assert await _mode_after_a_loss(room, redis) is Mode.OPEN
