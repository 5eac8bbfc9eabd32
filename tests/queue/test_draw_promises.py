"""What was promised of a draw is told for ever: another secret changes no commitment, and no draw is held with it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common import draw
from services.common.eventlog import EventLogUnavailable
from services.common.eventlog.topics import QUEUE_DRAWS, QUEUE_LINES
from services.queue.draw.outcome import PromiseBroken
from services.queue.line.keys import line_key
from services.queue.restore.book import LineBook
from tests.queue.draws import EVENT, SALE, SECRET, House, enter, expected, house, key_of, people, rebuilding, standing

OTHER = b"another secret, chosen afterward"
PROMISED = draw.commitment(draw.seed(SECRET, EVENT))
PEOPLE = people(range(20))


@pytest.fixture
async def here(redis_url: str) -> AsyncIterator[House]:
    async with house(redis_url) as opened:
        yield opened


@pytest.fixture
async def changed(redis_url: str) -> AsyncIterator[House]:
    """A process that was given another secret."""
    async with house(redis_url, secret=OTHER) as opened:
        yield opened


async def test_a_commitment_that_was_told_once_is_told_for_ever(
    here: House, changed: House, caplog: pytest.LogCaptureFixture
) -> None:
    assert await here.book.commitment(EVENT) == PROMISED
    with caplog.at_level(logging.ERROR):
        assert await changed.book.commitment(EVENT) == PROMISED
        assert await changed.book.commitment(EVENT) == PROMISED
    assert [record.message for record in caplog.records if "secret of draws" in record.message]
    assert len(caplog.records) == 1
    # Who asks for another event has the promise of that one.
    assert await changed.book.commitment(8) == draw.commitment(draw.seed(OTHER, 8))


async def test_a_line_begins_with_its_promise(here: House, changed: House) -> None:
    async with here.log.writer() as writer:
        book = LineBook(here.log, writer, lambda event_id: draw.commitment(draw.seed(SECRET, event_id)))
        begun = datetime.now(UTC)
        await book.begins(EVENT, begun)
        assert (await book.memory(EVENT)).since == begun
    # Nobody has asked the process of the first secret.
    assert await changed.book.commitment(EVENT) == PROMISED


async def test_who_promises_at_once_promises_the_same(here: House, changed: House) -> None:
    told = await asyncio.gather(*(each.book.commitment(EVENT) for each in (here, changed, here, changed)))
    assert len(set(told)) == 1


async def test_no_draw_is_held_with_another_seed(here: House, changed: House) -> None:
    await enter(here.redis, PEOPLE)
    await here.book.commitment(EVENT)
    with pytest.raises(PromiseBroken):
        await changed.holder.run(EVENT, SALE)
    assert await changed.draws.find(EVENT) is None
    assert not any((await standing(here.redis)).values())
    # The secret is given back.
    assert await here.holder.run(EVENT, SALE)
    assert await standing(here.redis) == expected(PEOPLE)


async def test_a_draw_that_was_decided_is_finished_under_any_secret(here: House, changed: House) -> None:
    await enter(here.redis, PEOPLE)
    closed = await here.store.close(EVENT, SALE.open_time)
    assert closed
    await here.holder._decide(EVENT, SALE, closed)
    assert await changed.holder.run(EVENT, SALE)
    assert await changed.book.key(EVENT) == key_of(PEOPLE)
    assert await changed.book.commitment(EVENT) == PROMISED


async def test_a_draw_from_before_promises_were_kept_is_told_with_its_seed(here: House, changed: House) -> None:
    await enter(here.redis, PEOPLE)
    await here.holder.run(EVENT, SALE)
    await here.redis.delete(
        f"{{eventlog}}:{QUEUE_LINES}:0", *[key async for key in here.redis.scan_iter("*queue.lines*")]
    )
    assert await changed.book.commitment(EVENT) == PROMISED
    # And it is given no promise afterwards.
    assert await changed.promises.find(EVENT) is None


async def test_nothing_is_promised_while_the_log_is_away(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise EventLogUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(here.promises._writer, "append", away)
        with pytest.raises(EventLogUnavailable):
            await here.book.commitment(EVENT)
    assert await here.book.commitment(EVENT) == PROMISED


async def test_a_new_life_of_line_and_log_has_a_draw_of_its_own(here: House) -> None:
    await enter(here.redis, PEOPLE)
    await here.holder.run(EVENT, SALE)
    assert await here.book.outcome(EVENT)
    fewer = people(range(100, 103))
    await here.redis.delete(*[key async for key in here.redis.scan_iter("*queue*")])
    here.book._fresh.clear()
    # While the line is lost, what was known of its draw stands.
    assert await here.book.key(EVENT) == key_of(PEOPLE)
    await enter(here.redis, fewer)
    here.book._fresh.clear()
    assert await here.book.outcome(EVENT) is None
    await here.holder.run(EVENT, SALE)
    here.book._fresh.clear()
    assert await here.book.key(EVENT) == key_of(fewer)
    assert await here.book.entrants(EVENT, 0, 10) == (sorted(fewer), [fewer[user] for user in sorted(fewer)])
    await here.redis.delete(line_key(EVENT, "draw_list"))
    assert (await here.book.entrants(EVENT, 0, 10))[0] == sorted(fewer)


async def test_draws_are_read_from_the_beginning_of_their_line_on(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, datetime | None]] = []
    read = here.log.read_all

    def noting(topic: str, *, key: str | None = None, since: datetime | None = None) -> object:
        asked.append((topic, since))
        return read(topic, key=key, since=since)

    monkeypatch.setattr(here.log, "read_all", noting)
    await enter(here.redis, PEOPLE)
    begun = datetime.now(UTC)
    async with here.log.writer() as writer:
        await LineBook(here.log, writer, lambda _event_id: PROMISED).begins(EVENT, begun)
    await here.holder.run(EVENT, SALE)
    assert await here.book.restore(EVENT, await rebuilding(here.redis))
    here.book._lists.clear()
    await here.redis.delete(line_key(EVENT, "draw_list"))
    assert (await here.book.entrants(EVENT, 0, 1))[0] == sorted(PEOPLE)[:1]
    bounds = [since for topic, since in asked if topic == QUEUE_DRAWS]
    assert bounds == [begun - timedelta(days=1)] * 4


async def test_many_who_ask_at_once_have_the_log_asked_once(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = here.log.read_all, 0

    def counting(*args: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(*args, **named)

    monkeypatch.setattr(here.log, "read_all", counting)
    assert set(await asyncio.gather(*(here.book.commitment(EVENT) for _ in range(50)))) == {PROMISED}
    assert reads == 2  # before it was promised, and after it
    assert [await here.promises.find(8) for _ in range(5)] == [None] * 5
    assert reads == 3
    assert await here.promises.commitment(8)
