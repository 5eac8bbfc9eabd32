"""Redis for the line, and a second client as another process would have."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from services.common.redis import open_redis


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def other_redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client
