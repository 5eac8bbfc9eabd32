"""Redis for the line, a second client as another process would have, and the nodes that vote on leases."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from deploy.local.stack import Stack, session_name
from services.common.redis import open_redis
from tests.queue.lease_nodes import SPECS, LeaseNodes


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def other_redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def running_nodes() -> Iterator[LeaseNodes]:
    stack = Stack(session_name("test-lease"), specs=SPECS)
    try:
        stack.up()
        yield LeaseNodes(stack)
    finally:
        stack.remove()


@pytest.fixture
async def nodes(running_nodes: LeaseNodes) -> AsyncIterator[LeaseNodes]:
    """Three nodes, empty and running, whatever a test before has done to them."""
    yield running_nodes
    await running_nodes.mend()
