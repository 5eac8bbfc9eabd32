"""A process that is told to stop while people follow something: their streams end whole, and it goes at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
import pytest

from deploy.local.stack import Stack
from tests.e2e.shop import Person, Shop
from tests.support import eventually

# A tenth of what a process may take: 10 s of drain.
PROMPT = timedelta(seconds=3)


@asynccontextmanager
async def following(shop: Shop, path: str, person: Person) -> AsyncIterator[aiohttp.StreamReader]:
    """A stream that has told its first event."""
    async with shop.session.get(path, headers=person.headers) as response:
        assert response.status == 200
        async with asyncio.timeout(5):
            while not (await response.content.readline()).startswith(b"data: "):
                pass
        yield response.content


async def a_place(shop: Shop) -> tuple[str, Person]:
    """Someone who waits in a line that stands."""
    event_id, person, operator = await shop.seed(), await shop.sign_up(), await shop.operator()
    line = f"/api/events/{event_id}/queue"
    await shop.ok("PATCH", f"{line}/policy", person=operator, json_body={"mode": "HOLD"})
    await shop.ok("POST", line, person=person, json_body={})
    return f"{line}/stream", person


async def a_booking(shop: Shop) -> tuple[str, Person]:
    """Someone who has not paid yet."""
    event_id, person = await shop.seed(), await shop.sign_up()
    booking = await shop.reserve(person, event_id, await shop.admit(person, event_id))
    return f"/api/tickets/status/stream?booking_id={booking['booking_id']}", person


async def stopped(stack: Stack, name: str) -> tuple[int, timedelta]:
    """SIGTERM, as an orchestrator sends it; the exit status and how long it took."""
    child, began = stack._children[name], time.monotonic()
    child.terminate()
    status = await asyncio.to_thread(child.wait, 30)
    return status, timedelta(seconds=time.monotonic() - began)


@pytest.mark.slow
@pytest.mark.parametrize(("process", "follow"), [("inventory", a_booking), ("edge", a_place), ("edge", a_booking)])
async def test_streams_end_whole_and_the_process_goes_at_once(
    shop: Shop, process: str, follow: Callable[[Shop], Awaitable[tuple[str, Person]]]
) -> None:
    path, person = await follow(shop)
    async with following(shop, path, person) as stream:
        stopping = asyncio.create_task(stopped(shop.stack, process))
        # A connection that breaks raises; a problem would be told as an event.
        rest = await asyncio.wait_for(stream.read(), PROMPT.total_seconds())
        status, took = await stopping
    await asyncio.to_thread(shop.stack.start, process)

    assert b"problem" not in rest
    assert (status, took < PROMPT) == (0, True), took

    async def again() -> bool:
        async with following(shop, path, person):
            return True

    # As a browser does: the stream asked for two seconds between attempts.
    assert await eventually(again, within=timedelta(seconds=10))


@pytest.mark.slow
async def test_a_place_is_followed_through_another_life_of_queue(shop: Shop) -> None:
    path, person = await a_place(shop)
    async with following(shop, path, person) as stream:
        status, took = await stopped(shop.stack, "queue")
        await asyncio.to_thread(shop.stack.start, "queue")
        # The edge follows the line, whoever tells of it: what is new comes on the same connection.
        other = await shop.sign_up()

        async def joined() -> bool:
            return (await shop.call("POST", path.removesuffix("/stream"), person=other, json_body={})).status < 300

        # Not at once: the edge has yet to find the new process.
        assert await eventually(joined)
        async with asyncio.timeout(10):
            while b'"total_waiting":2' not in await stream.readline():
                pass
    assert (status, took < PROMPT) == (0, True), took
