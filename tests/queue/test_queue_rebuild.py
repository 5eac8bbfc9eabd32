"""Building a line: a new one at once, a lost one from the log; never half of one, whoever else is at it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import redis as blocking
from boxoffice.queue.v1 import queue_events_pb2 as pb
from redis.asyncio import Redis

from services.common.eventlog import open_event_log
from services.common.eventlog.port import EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS, TOPICS
from services.queue.admission.loop import AdmissionLoop
from services.queue.admission.publisher import FactPublisher
from services.queue.line.domain import Mode, PlaceState, Sale
from services.queue.line.store import LineStore, line_key
from services.queue.restore import store as store_module
from services.queue.restore.book import LineBook
from services.queue.restore.history import History, SpentPlace
from services.queue.restore.rebuild import Rebuilder
from services.queue.restore.store import Opening, RestoreStore
from tests import support
from tests.queue.lines import EVENT, OPEN_SALE, POLICY
from tests.queue.neighbours import stamp

LOST = Opening(restoring=True, grace=timedelta(seconds=10), limit=timedelta(minutes=5))
PEOPLE = [SpentPlace(user, user % 2, f"R:{user}:{10**13}:1:1") for user in range(1, 1202)]
NO_RULES: dict[bytes, bytes] = {}


class NoDraw:
    """An event whose draw was never held."""

    async def restore(self, event_id: int, attempt: str) -> None:
        """Nothing to put back."""


@pytest.fixture
def log_url(valkey_url: str) -> str:
    """A database of its own: where the log lives Redis is not lost."""
    url = f"{valkey_url.rpartition('/')[0]}/9"
    with blocking.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(log_url) as opened:
        await opened.create_topics(TOPICS)
        yield opened


@pytest.fixture
async def writer(log: EventLog) -> AsyncIterator[EventLogWriter]:
    async with log.writer() as opened:
        yield opened


def _commitment(event_id: int) -> bytes:
    return b"%032d" % event_id


def _rebuilder(redis: Redis, log: EventLog, writer: EventLogWriter, store: RestoreStore | None = None) -> Rebuilder:
    return Rebuilder(
        store or RestoreStore(redis),
        LineBook(log, writer, _commitment),
        NoDraw(),
        activate=LineStore(redis, POLICY).upkeep.activate,
        grace=timedelta(seconds=10),
        limit=timedelta(minutes=5),
    )


async def _line(redis: Redis) -> dict[bytes, bytes]:
    return await cast("Any", redis.hgetall(line_key(EVENT, "line")))  # type: ignore[no-any-return] # decided by the cast


# Facts are told in the order in which they are made here.
_NUMBERS = itertools.count(1)


def _fact(ago: int = 0) -> pb.QueueEvent:
    moment = stamp(datetime.now(UTC) - timedelta(seconds=ago))
    return pb.QueueEvent(id=f"{EVENT:x}-{next(_NUMBERS)}-0", event_id=EVENT, time=moment)


async def _tell(writer: EventLogWriter, *facts: pb.QueueEvent) -> None:
    record = pb.QueueEvents(events=facts).SerializeToString()
    await writer.append(QUEUE_EVENTS, str(EVENT), record, {})


def _called(user_id: int, score: int, lane: int = 0, *, calls: int = 1, ago: int = 0) -> pb.QueueEvent:
    now = datetime.now(UTC) - timedelta(seconds=ago)
    fact = _fact(ago)
    until = stamp(now + timedelta(minutes=1))
    fact.place_called.MergeFrom(
        pb.PlaceCalled(user_id=user_id, claim_expire_time=until, lane=lane, score=score, calls=calls)
    )
    return fact


def _admitted(user_id: int, score: int, *, ago: int = 0) -> pb.QueueEvent:
    now = datetime.now(UTC) - timedelta(seconds=ago)
    fact = _fact(ago)
    until = stamp(now + timedelta(minutes=1))
    fact.place_admitted.MergeFrom(pb.PlaceAdmitted(user_id=user_id, admission_expire_time=until, score=score))
    return fact


def _left(user_id: int, score: int) -> pb.QueueEvent:
    fact = _fact()
    fact.place_left.MergeFrom(pb.PlaceLeft(user_id=user_id, score=score))
    return fact


def _done(user_id: int, score: int) -> pb.QueueEvent:
    fact = _fact()
    fact.place_done.MergeFrom(pb.PlaceDone(user_id=user_id, score=score))
    return fact


async def test_a_new_line_starts_at_once_and_a_lost_one_waits_for_its_people(
    redis: Redis, log: EventLog, writer: EventLogWriter
) -> None:
    await _rebuilder(redis, log, writer).ensure(EVENT)
    new = await _line(redis)
    assert int(new[b"built"]) > 1.6e15
    assert new[b"restoring_until_ms"] == b"0"

    await redis.flushdb()
    await _rebuilder(redis, log, writer).ensure(EVENT)
    lost = await _line(redis)
    # Also when only those come back who were called, and nobody joins: their slots are for others.
    assert await LineStore(redis, POLICY).upkeep.active_events() == [EVENT]
    assert int(lost[b"built"]) > int(new[b"built"])
    assert int(lost[b"restoring_until_ms"]) - int(lost[b"built"]) // 1000 in range(9_990, 10_010)
    assert int(lost[b"restoring_limit_ms"]) - int(lost[b"built"]) // 1000 in range(299_990, 300_010)

    # One that stands is left alone.
    await _rebuilder(redis, log, writer).ensure(EVENT)
    assert await _line(redis) == lost


async def test_who_had_left_the_line_is_where_they_were(redis: Redis, log: EventLog, writer: EventLogWriter) -> None:
    rebuilder = _rebuilder(redis, log, writer)
    await rebuilder.ensure(EVENT)
    await redis.flushdb()
    await _tell(writer, _called(1, 10), _called(2, 30, 2), _called(3, 11), _called(4, 12), _called(5, 5, ago=90))
    await _tell(writer, _admitted(3, 11), _left(4, 12), _admitted(6, 13, ago=90), _called(7, 14, calls=2, ago=90))
    await _tell(writer, _admitted(8, 9), _done(8, 9))

    await rebuilder.ensure(EVENT)

    places: Any = await cast("Any", redis.hgetall(line_key(EVENT, "places")))
    states = {int(user): record.decode().split(":")[:2] for user, record in places.items()}
    assert states == {
        1: ["R", "10"],
        2: ["R", "30"],
        3: ["A", "11"],
        4: ["L", "12"],
        5: ["R", "5"],  # missed a first call: the next tick grants the second chance
        6: ["E", "13"],
        7: ["E", "14"],
        8: ["D", "9"],  # has bought: no slot is held for them
    }
    assert set(await redis.zrange(line_key(EVENT, "ready"), 0, -1)) == {b"1", b"2", b"5"}
    assert await redis.zrange(line_key(EVENT, "admitted"), 0, -1) == [b"3"]
    assert await cast("Any", redis.hgetall(line_key(EVENT, "lanes"))) == {b"2": b"2"}
    line = await _line(redis)
    assert [line[f"watermark:{lane}".encode()] for lane in range(4)] == [b"14", b"0", b"30", b"0"]
    assert line[b"last_score"] == b"30"
    assert line[b"called"] == b"8"


async def test_facts_of_a_rebuilt_line_are_newer_than_all_before_although_the_clock_is_behind(
    redis: Redis, log: EventLog, writer: EventLogWriter
) -> None:
    rebuilder, store = _rebuilder(redis, log, writer), LineStore(redis, POLICY)
    await rebuilder.ensure(EVENT)
    ahead = int((datetime.now(UTC) + timedelta(minutes=1)).timestamp() * 1000)
    fact = _called(1, 10)
    fact.id = f"{EVENT:x}-{ahead}-3"
    await _tell(writer, fact)
    await redis.flushdb()

    await rebuilder.ensure(EVENT)
    await store.claim(EVENT, 1)

    (admitted,) = await store.unpublished(EVENT, 10)
    assert admitted.fact_id == f"{EVENT:x}-{ahead}-4"
    await FactPublisher(store, writer).told(EVENT)
    await redis.flushdb()
    await rebuilder.ensure(EVENT)
    line, standing = await store.read(EVENT, 1)
    assert standing
    assert standing.at(line.now) is PlaceState.ADMITTED


async def test_a_line_comes_back_with_the_rules_that_an_operator_set(
    redis: Redis, log: EventLog, writer: EventLogWriter
) -> None:
    rebuilder, book = _rebuilder(redis, log, writer), LineBook(log, writer, _commitment)
    await rebuilder.ensure(EVENT)
    await book.runs(EVENT, replace(POLICY, inside_cap=8, mode=Mode.HOLD), 6)
    await book.runs(EVENT, replace(POLICY, inside_cap=7), 5)  # by a process that was slow
    await redis.flushdb()
    policy = line_key(EVENT, "policy")
    await cast("Any", redis.hset(policy, "rate", "3"))  # set while the line was being rebuilt: newer than the log

    await rebuilder.ensure(EVENT)

    assert await cast("Any", redis.hmget(policy, "cap", "mode", "rate", "version")) == [b"8", b"HOLD", b"3", b"6"]


async def test_while_the_log_is_away_no_line_begins(redis: Redis, writer: EventLogWriter) -> None:
    async with open_event_log("redis://127.0.0.1:1/0") as away:
        with pytest.raises(EventLogUnavailable):
            await _rebuilder(redis, away, writer).ensure(EVENT)
    assert await _line(redis) == {}
    async with open_event_log("redis://127.0.0.1:1/0") as away, away.writer() as cut_off:
        with pytest.raises(EventLogUnavailable):
            await LineBook(away, cut_off, _commitment).begins(EVENT, datetime.now(UTC))


async def test_any_number_of_processes_build_a_line_once(
    redis: Redis, other_redis: Redis, log: EventLog, writer: EventLogWriter
) -> None:
    rebuilders = [_rebuilder(client, log, writer) for client in (redis, other_redis) * 4]
    await asyncio.gather(*(each.ensure(EVENT) for each in rebuilders))
    await redis.flushdb()
    await _tell(writer, *(_called(user, user) for user in range(1, 1001)))

    await asyncio.gather(*(each.ensure(EVENT) for each in rebuilders))

    assert await cast("Any", redis.hlen(line_key(EVENT, "places"))) == 1000


async def _two_attempts(redis: Redis, other_redis: Redis) -> tuple[list[bool], int]:
    """One has written a part when the other begins; then each goes on in turn. What was done, and who is there."""
    one, other = RestoreStore(redis), RestoreStore(other_redis)
    async with one.lock(EVENT) as first:
        assert first
        assert await one.begin(EVENT, first)
        done = [await one.write(EVENT, first, _part(0, 600))]
        await redis.delete(line_key(EVENT, "rebuild"))  # it stood still for longer than the lock holds
        async with other.lock(EVENT) as second:
            assert second
            assert await other.begin(EVENT, second)
            done.append(await one.write(EVENT, first, _part(600, 1201)))
            done.append(await one.open(EVENT, first, LOST, History(), NO_RULES))
            done.append(await other.write(EVENT, second, PEOPLE))
            done.append(await other.open(EVENT, second, LOST, History(), NO_RULES))
    return done, await cast("Any", redis.hlen(line_key(EVENT, "places")))


def _part(start: int, end: int) -> Iterable[SpentPlace]:
    return PEOPLE[start:end]


async def test_two_attempts_do_not_mix(redis: Redis, other_redis: Redis) -> None:
    done, people = await _two_attempts(redis, other_redis)

    assert done == [True, False, False, True, True]
    assert people == len(PEOPLE)


async def test_control_without_the_name_of_the_attempt_half_a_line_is_opened(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_PLACES", "_OPEN"):
        support.without_guard(monkeypatch, tmp_path, store_module, name, " or known[2] ~= attempt")

    done, people = await _two_attempts(redis, other_redis)

    assert done == [True, True, True, False, False]
    assert people == len(PEOPLE) - 600


async def test_a_line_that_was_built_is_not_cleared(redis: Redis) -> None:
    store = RestoreStore(redis)
    async with store.lock(EVENT) as attempt:
        assert attempt
        assert await store.begin(EVENT, attempt)
        assert await store.open(EVENT, attempt, LOST, History(), NO_RULES)

    async with store.lock(EVENT) as again:
        assert again
        assert not await store.begin(EVENT, again)
        assert not await store.write(EVENT, attempt, PEOPLE)


async def _begun_by_who_came_late(redis: Redis, other_redis: Redis) -> tuple[bool, int]:
    """One stood still before it began, and another has written. Whether the first begins all the same; who is there."""
    one, other = RestoreStore(redis), RestoreStore(other_redis)
    async with one.lock(EVENT) as first:
        assert first
        await redis.delete(line_key(EVENT, "rebuild"))
        async with other.lock(EVENT) as second:
            assert second
            assert await other.begin(EVENT, second)
            assert await other.write(EVENT, second, PEOPLE)
            begun = await one.begin(EVENT, first)
    return begun, await cast("Any", redis.hlen(line_key(EVENT, "places")))


async def test_who_lost_the_lock_does_not_clear_what_its_successor_wrote(redis: Redis, other_redis: Redis) -> None:
    assert await _begun_by_who_came_late(redis, other_redis) == (False, len(PEOPLE))


async def test_control_without_the_name_in_the_lock_it_does(
    redis: Redis, other_redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if redis.call('GET', rebuild) ~= attempt then return 0 end"
    support.without_guard(monkeypatch, tmp_path, store_module, "_BEGIN", guard)

    assert await _begun_by_who_came_late(redis, other_redis) == (True, 0)


class Slow(RestoreStore):
    """Takes nearly four times as long to write as a lock holds."""

    begun: ClassVar[list[str]] = []

    async def begin(self, event_id: int, attempt: str) -> bool:
        self.begun.append(attempt)
        return await super().begin(event_id, attempt)

    async def write(self, event_id: int, attempt: str, places: Iterable[SpentPlace]) -> bool:
        for place in list(places)[:30]:
            await asyncio.sleep(0.1)
            if not await super().write(event_id, attempt, [place]):
                return False
        return True


async def _slow_rebuilds(
    redis: Redis, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, int]:
    """Three processes rebuild what takes long. Whether the line is there after six seconds, by how many attempts."""
    monkeypatch.setattr(store_module, "_LOCK", timedelta(milliseconds=800))
    monkeypatch.setattr(Slow, "begun", [])
    await _rebuilder(redis, log, writer).ensure(EVENT)
    await _tell(writer, *(_called(user, user) for user in range(1, 101)))
    await redis.flushdb()
    rebuilders = [_rebuilder(redis, log, writer, Slow(redis)) for _ in range(3)]
    for each in rebuilders:
        each.nudge(EVENT)
    try:
        await support.eventually(lambda: Slow(redis).is_built(EVENT), within=timedelta(seconds=6))
    except AssertionError:
        return False, len(Slow.begun)
    finally:
        await asyncio.gather(*(each.aclose() for each in rebuilders))
    return True, len(Slow.begun)


async def test_a_line_that_takes_long_to_rebuild_is_rebuilt_once(
    redis: Redis, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _slow_rebuilds(redis, log, writer, monkeypatch) == (True, 1)


async def test_control_without_renewing_the_lock_it_is_never_rebuilt(
    redis: Redis, log: EventLog, writer: EventLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        """The lock ends after its time."""

    monkeypatch.setattr(RestoreStore, "_keep", never)

    built, attempts = await _slow_rebuilds(redis, log, writer, monkeypatch)

    assert not built
    assert attempts > 3


class Catalog:
    """One event, which is on sale."""

    async def sale(self, event_id: int) -> Sale:
        assert event_id == EVENT
        return OPEN_SALE


async def test_a_tick_has_a_lost_line_rebuilt(redis: Redis, log: EventLog, writer: EventLogWriter) -> None:
    store, rebuilder = LineStore(redis, POLICY), _rebuilder(redis, log, writer)
    held: list[object] = []
    loop = AdmissionLoop(
        store,
        Catalog(),  # type: ignore[arg-type] # the one method that is used
        FactPublisher(store, writer),
        lambda *draw: held.append(draw),
        rebuild=rebuilder.nudge,
    )
    await store.upkeep.activate(EVENT)

    await loop.tick()

    await support.eventually(lambda: RestoreStore(redis).is_built(EVENT))
    await loop.tick()
    assert held
