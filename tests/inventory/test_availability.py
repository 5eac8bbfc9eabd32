"""Which seats are free: read twice a second however many look, and true when read."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.common.mysql import Database, DatabaseUnavailable
from services.inventory.domain import EventNotFound
from services.inventory.fresh import Fresh
from tests.inventory.desk import Desk, event, open_desk
from tests.support import eventually


@pytest.fixture
async def desk(inventory_db: Database, redis_url: str) -> AsyncIterator[Desk]:
    async with open_desk(inventory_db, redis_url) as opened:
        yield opened


async def test_a_new_event_is_wholly_free(desk: Desk) -> None:
    picture = await desk.availability.picture(desk.event_id)
    assert picture.taken == bytes(5)
    assert (picture.progress.total, picture.progress.left) == (40, 40)


async def test_a_hold_shows_within_half_a_second_under_another_etag(desk: Desk) -> None:
    before = await desk.availability.picture(desk.event_id)
    await desk.reservations.reserve_many([desk.wish(1, 0, 9)])

    async def shows() -> bool:
        picture = await desk.availability.picture(desk.event_id)
        return picture.taken == b"\x80\x40\0\0\0" and picture.etag != before.etag and picture.progress.left == 38

    assert await eventually(shows, within=timedelta(seconds=2))


async def test_any_number_of_viewers_cause_one_read(desk: Desk) -> None:
    await desk.availability.picture(desk.event_id, newest=True)
    async with desk.redis.monitor() as monitor:
        pictures = await asyncio.gather(*(desk.availability.picture(desk.event_id, newest=True) for _ in range(1000)))
        # The monitor sees the whole server, whose other clients ping it as well.
        await desk.redis.echo("viewers-are-done")
        seen = []
        while (command := await monitor.next_command())["command"] != "ECHO viewers-are-done":
            seen.append(command["command"])
    assert len({id(picture) for picture in pictures}) == 1
    assert sum(command.startswith("GET ") for command in seen) == 1


async def test_an_unpublished_or_unknown_event_shows_nothing(inventory_db: Database, redis_url: str) -> None:
    async with open_desk(inventory_db, redis_url, sale=event(published=False)) as desk:
        for event_id in (desk.event_id, 999):
            with pytest.raises(EventNotFound):
                await desk.availability.picture(event_id)


async def test_a_failure_is_told_to_those_who_wait_and_not_kept() -> None:
    answers: list[Exception | int] = [RuntimeError("away"), 7]

    async def load(_: str) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    fresh = Fresh(load, timedelta(minutes=1))
    first = await asyncio.gather(fresh.get("a"), fresh.get("a"), return_exceptions=True)
    assert [type(each) for each in first] == [RuntimeError, RuntimeError]
    assert await fresh.get("a") == 7
    assert await fresh.get("a") == 7


class Source:
    """Answers with the number of the call, or fails, or says nothing."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.silent = False

    async def load(self, _: str) -> int:
        self.calls += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        return self.calls


async def test_an_outage_is_bridged_with_what_was_known_last_and_asked_about_again_later() -> None:
    source = Source()
    fresh = Fresh(source.load, timedelta(milliseconds=50), bridge=timedelta(minutes=1))
    source.error = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await fresh.get("a")  # nothing is known yet
    source.error = None
    assert await fresh.get("a") == 2
    source.error = DatabaseUnavailable()
    await eventually(lambda: source_was_asked_again(fresh, source))
    calls = source.calls
    assert [await fresh.get("a") for _ in range(5)] == [2] * 5
    assert source.calls == calls, "one question per age, not one per caller"
    source.error = None

    async def back() -> bool:
        return await fresh.get("a") > 2

    assert await eventually(back)


async def source_was_asked_again(fresh: Fresh[str, int], source: Source) -> bool:
    assert await fresh.get("a") == 2
    return source.calls > 2


async def test_silence_is_bridged_too() -> None:
    source = Source()
    fresh = Fresh(source.load, timedelta(), bridge=timedelta(minutes=1))
    assert await fresh.get("a") == 1
    source.silent = True
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(fresh.get("a") for _ in range(3))) == [1] * 3
    assert source.calls == 2
    for load in fresh._loading.values():
        load.task.cancel()


async def test_neither_faults_nor_what_is_too_old_is_bridged() -> None:
    source = Source()
    fresh = Fresh(source.load, timedelta(), bridge=timedelta(minutes=1))
    await fresh.get("a")
    source.error = EventNotFound()
    with pytest.raises(EventNotFound):
        await fresh.get("a")
    strict = Fresh(source.load, timedelta())
    source.error = None
    await strict.get("a")
    source.error = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await strict.get("a")


async def test_one_who_gives_up_does_not_take_the_value_from_the_others() -> None:
    go = asyncio.Event()

    async def load(_: str) -> int:
        await go.wait()
        return 7

    fresh = Fresh(load, timedelta(minutes=1))
    impatient, patient = asyncio.create_task(fresh.get("a")), asyncio.create_task(fresh.get("a"))
    await asyncio.sleep(0)
    impatient.cancel()
    go.set()
    assert await patient == 7
