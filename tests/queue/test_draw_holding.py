"""Holding a draw: closed once, the same for every holder, and nobody loses or gains a place by it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.common import draw
from services.common.eventlog import EventLogUnavailable
from services.common.eventlog.topics import QUEUE_DRAWS
from services.queue.draw import store as draw_store
from services.queue.draw.entrants import Entrants, ascending
from services.queue.draw.outcome import LineLost
from services.queue.line.keys import line_key
from services.queue.restore.book import LineBook
from tests.queue.draws import (
    EVENT,
    JOINED_US,
    LATER,
    SALE,
    SECRET,
    House,
    build,
    enter,
    expected,
    house,
    key_of,
    leave,
    people,
    rebuilding,
    standing,
)
from tests.support import eventually, without_guard

PEOPLE = people(range(12_345))


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[House]:
    async with house(redis_url) as opened:
        yield opened


@pytest.fixture
async def there(redis_url: str) -> AsyncIterator[House]:
    """Another process."""
    async with house(redis_url) as opened:
        yield opened


async def _field(redis: Redis, name: str) -> bytes | None:
    return cast("bytes | None", await cast("Any", redis.hget(line_key(EVENT, "draw"), name)))


async def test_everyone_gets_the_place_that_anyone_can_compute(here: House) -> None:
    await enter(here.redis, PEOPLE)
    assert await here.holder.run(EVENT, SALE)
    assert await standing(here.redis) == expected(PEOPLE)
    assert all(expected(PEOPLE).values())
    assert await _field(here.redis, "held_ms")
    assert await here.book.key(EVENT) == key_of(PEOPLE)
    outcome, listed = await here.draws.decided(EVENT)
    assert listed.slice(0, len(PEOPLE)) == (sorted(PEOPLE), [PEOPLE[user] for user in sorted(PEOPLE)])
    assert (outcome.key, outcome.entrant_count) == (key_of(PEOPLE), len(PEOPLE))


async def test_a_draw_is_kept_in_kafka_as_well(redis_url: str, kafka_url: str) -> None:
    event_id = uuid.uuid4().int >> 70  # the log outlives the test
    async with house(redis_url, kafka_url) as here, here.log.writer() as writer:
        # Draws are looked for from then on.
        await LineBook(here.log, writer, here.promises._seeds.commitment).begins(event_id, datetime.now(UTC))
        await enter(here.redis, PEOPLE, event_id)
        assert await here.holder.run(event_id, SALE)
        assert await standing(here.redis, event_id) == expected(PEOPLE, event_id)
        await here.redis.flushdb()
        assert await here.book.restore(event_id, await rebuilding(here.redis, event_id))
        assert await here.book.key(event_id) == key_of(PEOPLE, event_id)


async def test_a_list_stays_open_until_the_sale_opens_and_the_line_is_whole(here: House) -> None:
    await enter(here.redis, {1: 0, 2: 0})
    assert not await here.holder.run(EVENT, LATER)
    line = line_key(EVENT, "line")
    soon = int((datetime.now(UTC) + timedelta(minutes=1)).timestamp() * 1000)
    await cast("Any", here.redis.hset(line, "restoring_until_ms", soon))
    assert not await here.holder.run(EVENT, SALE)
    await here.redis.delete(line)
    assert not await here.holder.run(EVENT, SALE)
    assert await _field(here.redis, "closed_ms") is None
    await build(here.redis)
    assert await here.holder.run(EVENT, SALE)
    closed = await _field(here.redis, "closed_ms")
    # Once closed, always closed: also when the opening is moved.
    assert await here.holder.run(EVENT, LATER)
    assert await _field(here.redis, "closed_ms") == closed


async def test_a_draw_without_anyone_is_held_at_once(here: House) -> None:
    await build(here.redis)
    begin = asyncio.get_running_loop().time()
    assert await here.holder.run(EVENT, SALE)
    assert asyncio.get_running_loop().time() - begin < 0.2
    assert await _field(here.redis, "held_ms")
    assert await here.book.entrants(EVENT, 0, 10) == ([], [])


async def test_who_left_or_stands_already_gets_no_place(here: House) -> None:
    everyone = people(range(50))
    gone, renewed, missed, back = list(everyone)[:4]
    await enter(here.redis, everyone)
    # Left and came back before the list was closed: the record of the first place is old.
    await cast("Any", here.redis.hset(line_key(EVENT, "places"), str(back), "L:0:0:1:0"))
    assert await here.store.close(EVENT, SALE.open_time)
    await leave(here.redis, gone)
    await here.redis.zadd(line_key(EVENT, "lane_3"), {str(renewed): JOINED_US})
    await cast("Any", here.redis.hset(line_key(EVENT, "lanes"), str(renewed), 3))
    later = int((datetime.now(UTC) + timedelta(seconds=1)).timestamp() * 1000)
    await cast("Any", here.redis.hset(line_key(EVENT, "places"), str(missed), f"M:5:0:{later}:1"))
    await here.holder.run(EVENT, SALE)
    everyone[renewed] = 3
    wanted = expected(everyone)
    for user in (gone, missed):
        del wanted[everyone[user]][user]
    wanted[3][renewed] = JOINED_US
    assert await standing(here.redis) == wanted


async def test_one_task_for_an_event_however_often_it_is_asked_for(here: House) -> None:
    await enter(here.redis, people(range(500)))
    for _ in range(20):
        here.holder.hold(EVENT, SALE)
        await asyncio.sleep(0.001)
    await eventually(lambda: _field(here.redis, "held_ms"))
    await here.holder.close()
    records = [record async for record in here.log.read_all(QUEUE_DRAWS)]
    assert len(records) == 2  # the list, and what came of it


async def test_holders_at_once_come_to_the_same_places(here: House, there: House) -> None:
    await enter(here.redis, PEOPLE)
    await asyncio.gather(here.holder.run(EVENT, SALE), there.holder.run(EVENT, SALE))
    assert await standing(here.redis) == expected(PEOPLE)


async def _lose(redis: Redis, back: dict[int, int]) -> None:
    """Redis is emptied, and some people come back to the draw."""
    await redis.delete(*[key async for key in redis.scan_iter("queue:*")])
    await enter(redis, back)


async def test_a_draw_that_was_decided_stands_whatever_is_lost(here: House, there: House) -> None:
    users = list(PEOPLE)[:2_000]
    everyone = {user: PEOPLE[user] for user in users}
    await enter(here.redis, everyone)
    closed = await here.store.close(EVENT, SALE.open_time)
    assert closed
    await here.holder._decide(EVENT, SALE, closed)
    # Some come back with a place that was signed before a pass led them to their lane.
    back = {user: 0 if user % 3 == 0 else everyone[user] for user in users[500:]}
    stranger = max(everyone) + 1
    await _lose(here.redis, back | {stranger: 2})
    assert await there.holder.run(EVENT, SALE)
    wanted = expected(everyone)
    assert await there.book.key(EVENT) == key_of(everyone)
    found = await standing(there.redis)
    # Who is not in the list stands where they joined, behind everyone who was drawn.
    assert found[2].pop(stranger) == JOINED_US + len(back)
    assert found == {lane: {user: s for user, s in wanted[lane].items() if user in back} for lane in range(4)}
    assert await there.redis.zcard(line_key(EVENT, "entrants")) == len(everyone)
    assert await there.redis.zscore(line_key(EVENT, "entrants"), str(stranger)) is None


async def test_control_without_the_log_a_second_reading_decides_otherwise(
    here: House, there: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = people(range(100))
    await enter(here.redis, everyone)
    closed = await here.store.close(EVENT, SALE.open_time)
    assert closed
    await here.holder._decide(EVENT, SALE, closed)
    await _lose(here.redis, dict(list(everyone.items())[50:]))

    async def nothing(*_: Any) -> None:
        pass

    async def own(event_id: int, _since: Any) -> Any:
        entrants = await there.store.entrants(event_id)
        again = await there.store.close(event_id, SALE.open_time)
        assert again
        return await there.holder._outcome(draw.seed(SECRET, event_id), again, entrants), entrants

    monkeypatch.setattr(there.draws, "find", nothing)
    monkeypatch.setattr(there.draws, "decided", own)
    await there.holder.run(EVENT, SALE)
    assert await there.book.key(EVENT) != key_of(everyone)


async def _race_over_two_lists(here: House, there: House, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """One holder reads the whole list, another what came back after a loss; both write. The keys they go on with."""
    everyone = people(range(200))
    await enter(here.redis, everyone)
    both_have_read = asyncio.Barrier(2)
    for holder in (here, there):
        append = holder.draws.append_list

        async def after_both(*args: Any, append: Any = append) -> None:
            await both_have_read.wait()
            await append(*args)

        monkeypatch.setattr(holder.draws, "append_list", after_both)
    closed = await here.store.close(EVENT, SALE.open_time)
    assert closed
    first = asyncio.create_task(here.holder._decide(EVENT, SALE, closed))
    await eventually(lambda: both_have_read.n_waiting == 1)
    await _lose(here.redis, dict(list(everyone.items())[100:]))
    again = await there.store.close(EVENT, SALE.open_time)
    assert again
    decisions = await asyncio.gather(first, there.holder._decide(EVENT, SALE, again))
    return decisions[0][0].key, decisions[1][0].key


async def test_who_wrote_an_attempt_goes_on_with_the_first_one(
    here: House, there: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await _race_over_two_lists(here, there, monkeypatch)
    assert ours == theirs


async def test_control_who_goes_on_with_their_own_attempt_disagrees(
    here: House, there: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for holder in (here, there):
        written: dict[int, Any] = {}
        append = holder.draws.append_outcome

        async def remember(
            event_id: int, attempt: str, outcome: Any, append: Any = append, kept: Any = written
        ) -> None:
            kept[event_id] = (outcome, Entrants())
            await append(event_id, attempt, outcome)

        async def own(event_id: int, _since: Any, kept: Any = written) -> Any:
            return kept[event_id]

        monkeypatch.setattr(holder.draws, "append_outcome", remember)
        monkeypatch.setattr(holder.draws, "decided", own)
    ours, theirs = await _race_over_two_lists(here, there, monkeypatch)
    assert ours != theirs


@pytest.mark.parametrize("lost_after", [1, 2, 3])
async def test_a_line_that_is_lost_while_its_list_is_read_is_not_drawn(
    here: House, monkeypatch: pytest.MonkeyPatch, lost_after: int
) -> None:
    await enter(here.redis, PEOPLE)
    read, count = here.store._zrange, 0

    async def losing(event_id: int, start: int) -> list[bytes]:
        nonlocal count
        count += 1
        if count == lost_after:
            await _lose(here.redis, people(range(3)))
        return await read(event_id, start)

    monkeypatch.setattr(here.store, "_zrange", losing)
    with pytest.raises(LineLost):
        await here.holder.run(EVENT, SALE)
    assert await here.draws.find(EVENT) is None
    assert await here.holder.run(EVENT, SALE)
    assert await standing(here.redis) == expected(people(range(3)))


async def test_a_holder_of_another_life_gives_no_places(here: House, there: House) -> None:
    everyone = people(range(100))
    await enter(here.redis, everyone)
    closed = await here.store.close(EVENT, SALE.open_time)
    assert closed
    outcome, entrants = await here.holder._decide(EVENT, SALE, closed)
    await here.store.decide(EVENT, outcome)
    await _lose(here.redis, everyone)
    with pytest.raises(LineLost):
        await here.holder._enter(EVENT, outcome, entrants, len(everyone))
    with pytest.raises(LineLost):
        await here.store.hold(EVENT, outcome.key)
    assert await there.holder.run(EVENT, SALE)
    # Nor does a slow one put anyone back who was called and is gone.
    user = next(iter(everyone))
    await here.redis.zrem(line_key(EVENT, ("users", "lane_1", "lane_2", "lane_3")[everyone[user]]), str(user))
    await here.holder._enter(EVENT, outcome, entrants, len(everyone))
    assert user not in (await standing(here.redis))[everyone[user]]


async def test_nothing_is_given_while_the_log_is_away(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await enter(here.redis, people(range(10)))

    async def away(*_: object) -> None:
        raise EventLogUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(here.draws, "append_outcome", away)
        with pytest.raises(EventLogUnavailable):
            await here.holder.run(EVENT, SALE)
        assert not any((await standing(here.redis)).values())
        # An attempt without an end counts for nothing.
        assert await here.draws.find(EVENT) is None
    assert await here.holder.run(EVENT, SALE)
    assert await standing(here.redis) == expected(people(range(10)))


async def test_a_lost_line_gets_its_draw_back(here: House, there: House) -> None:
    everyone = people(range(7_000))
    await enter(here.redis, everyone)
    assert not await there.book.restore(EVENT, "attempt")
    await here.holder.run(EVENT, SALE)
    await here.redis.delete(*[key async for key in here.redis.scan_iter("queue:*")])
    assert await there.book.restore(EVENT, await rebuilding(there.redis, EVENT))
    assert await there.book.key(EVENT) == key_of(everyone)
    assert (await there.book.view(EVENT)).outcome == (await here.draws.decided(EVENT))[0]
    assert await there.redis.zcard(line_key(EVENT, "entrants")) == len(everyone)
    assert not any((await standing(there.redis)).values())
    lanes: Any = await cast("Any", there.redis.hgetall(line_key(EVENT, "lanes")))
    assert {int(user): int(lane) for user, lane in lanes.items()} == {u: lane for u, lane in everyone.items() if lane}
    # The list can be lost alone, and is read from the log again.
    await there.redis.delete(line_key(EVENT, "draw_list"))
    there.book._lists.clear()
    assert (await there.book.entrants(EVENT, 4_990, 20))[0] == sorted(everyone)[4_990:5_010]
    assert await there.redis.hlen(line_key(EVENT, "draw_list")) == 2


async def _a_late_attempt(here: House, there: House) -> dict[bytes, bytes]:
    """One attempt is about to write the draw when another has opened the line, and a pass has moved somebody."""
    await enter(here.redis, {1: 1, 2: 2})
    await here.holder.run(EVENT, SALE)
    await here.redis.delete(*[key async for key in here.redis.scan_iter("queue:*")])
    first = await rebuilding(here.redis)
    outcome, entrants = await here.draws.decided(EVENT)
    await cast("Any", there.redis.hset(line_key(EVENT, "line"), "rebuilding", "another"))
    assert await there.book.restore(EVENT, "another")
    await build(there.redis)
    await cast("Any", there.redis.hset(line_key(EVENT, "lanes"), "1", "3"))
    await there.redis.zrem(line_key(EVENT, "entrants"), "1")
    with suppress(LineLost):
        await here.store.take_over(EVENT, entrants, outcome, attempt=first)
    return cast("dict[bytes, bytes]", await cast("Any", here.redis.hgetall(line_key(EVENT, "lanes"))))


async def test_an_attempt_that_is_over_changes_no_lane(here: House, there: House) -> None:
    assert await _a_late_attempt(here, there) == {b"1": b"3", b"2": b"2"}


async def test_control_without_the_name_of_the_attempt_it_does(
    here: House, there: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if attempt ~= '' and (life[1] or life[2] ~= attempt) then return 0 end"
    without_guard(monkeypatch, tmp_path, draw_store, "_TAKE_OVER", guard)

    assert await _a_late_attempt(here, there) == {b"1": b"1", b"2": b"2"}


@pytest.mark.parametrize("count", [0, 1, 4_999, 5_000, 5_001, 60_000])
def test_runs_become_one_list(count: int) -> None:
    numbers = [(number * 7919) % 1_000_003 for number in range(count)]
    runs = [sorted(numbers[start : start + 3_000]) for start in range(0, count, 3_000)]
    parts = list(ascending(runs))
    assert [number for part in parts for number in part] == sorted(numbers)
    assert max((len(part) for part in parts), default=0) <= 6_000


async def test_the_loop_is_never_held_up(here: House) -> None:
    await enter(here.redis, people(range(60_000)))
    # What a turn costs; how long a neighbour on the machine has this one wait in it says nothing of the draw.
    clock = time.thread_time
    late: list[float] = []

    async def watch() -> None:
        while True:
            begin = clock()
            await asyncio.sleep(0)
            late.append(clock() - begin)

    watcher = asyncio.create_task(watch())
    await here.holder.run(EVENT, SALE)
    watcher.cancel()
    late.sort()
    # A garbage collection may hold up a step or two.
    assert late[-5] < 0.02
