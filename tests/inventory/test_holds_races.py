"""Many at once; and for each race a control that takes the guard away and shows what would happen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.inventory.holds import HoldOutcome
from tests.inventory.seats import Hall, asks, open_hall, without

BUYERS = 200
SEAT_GUARD = "if redis.call('GETBIT', seats, seat) == 1 then"
LIMIT_GUARD = "if mine + quantity > limit then"


@pytest.fixture
async def hall(redis_url: str) -> AsyncIterator[Hall]:
    async with open_hall(redis_url) as opened:
        await opened.held(asks(9_999, [0]))
        yield opened


async def winners_of_the_last_seat(hall: Hall) -> int:
    outcomes = await asyncio.gather(*(hall.hold(asks(user, [1])) for user in range(BUYERS)))
    return sum(isinstance(outcome, HoldOutcome) for (outcome,) in outcomes)


async def tickets_of_one_person(hall: Hall) -> int:
    tries = (hall.hold(asks(1, [seat], key=f"key-000{seat:02}", limit=4)) for seat in range(1, 20))
    return sum(isinstance(outcome, HoldOutcome) for (outcome,) in await asyncio.gather(*tries))


async def test_of_200_buyers_of_the_last_seat_exactly_one_wins(hall: Hall) -> None:
    assert await winners_of_the_last_seat(hall) == 1


async def test_control_without_the_look_at_the_bitmap_the_seat_is_oversold(hall: Hall, tmp_path: Path) -> None:
    without(hall, tmp_path, SEAT_GUARD, "if false then")
    assert await winners_of_the_last_seat(hall) > 1


async def test_concurrent_requests_of_one_person_stay_within_the_limit(hall: Hall) -> None:
    assert await tickets_of_one_person(hall) == 4


async def test_control_without_the_limit_one_person_gets_more(hall: Hall, tmp_path: Path) -> None:
    without(hall, tmp_path, LIMIT_GUARD, "if false then")
    assert await tickets_of_one_person(hall) > 4
