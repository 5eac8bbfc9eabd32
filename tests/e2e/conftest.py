"""The whole of Boxoffice, as `make up` starts it, shared by the tests of this folder."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from deploy.local.stack import Stack, remove_dead_sessions, session_name
from tests.e2e.shop import Shop


@pytest.fixture(scope="session")
def whole_stack() -> Iterator[Stack]:
    """Every process, on Apache Kafka; one of the demo tests runs on Redis Streams."""
    # A name of its own: with that of the servers of the other tests it would be the same stack, and its notify would
    # take records that they wait for.
    remove_dead_sessions("e2e")
    stack = Stack(session_name("e2e"), settings={"BOXOFFICE_TRACE_RATIO": "0"})
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


@pytest.fixture
async def shop(whole_stack: Stack) -> AsyncIterator[Shop]:
    """The front door, with a session of its own."""
    async with aiohttp.ClientSession(base_url=whole_stack.url("edge")) as session:
        yield Shop(whole_stack, session)
