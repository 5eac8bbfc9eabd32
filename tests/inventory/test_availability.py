"""Which seats are free: read twice a second however many look, and true when read."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.common.mysql import Database
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
        await desk.redis.ping()
        seen = []
        while (command := await monitor.next_command())["command"] != "PING":
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
