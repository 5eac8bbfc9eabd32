"""Trimming of Redis Streams: what is old and read by everybody goes, and nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.common.lua import Script
from services.common.redis import open_redis

TRIM = Script.load(Path(__file__).parents[2] / "services" / "common" / "lua" / "eventlog_trim.lua")
STREAM = "{eventlog}:facts:0"
# A node of a stream holds 100 entries, and trimming takes whole nodes.
COUNT = 1000


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as opened:
        for number in range(1, COUNT + 1):
            await opened.xadd(STREAM, {b"k": b"", b"v": b""}, id=f"{number}-0")
        await opened.xgroup_create(STREAM, "fast", id="0")
        await opened.xgroup_create(STREAM, "slow", id="0")
        yield opened


async def _trim(client: Redis, retention_ms: int = 1000) -> int:
    trimmed: int = await TRIM.call(client, {"stream": STREAM}, {"retention_ms": retention_ms})
    return trimmed


async def test_nothing_goes_that_one_group_has_not_committed(client: Redis) -> None:
    await client.xgroup_setid(STREAM, "fast", f"{COUNT}-0")
    assert await _trim(client) == 0
    await client.xgroup_setid(STREAM, "slow", "500-0")
    assert 300 <= await _trim(client) < 500
    await client.xgroup_setid(STREAM, "slow", f"{COUNT}-0")
    assert await _trim(client) > 0


async def test_what_is_young_stays(client: Redis) -> None:
    for group in ("fast", "slow"):
        await client.xgroup_setid(STREAM, group, f"{COUNT}-0")
    [seconds, _] = await client.time()
    assert await _trim(client, retention_ms=(seconds + 10) * 1000) == 0
    assert await client.xlen(STREAM) == COUNT


async def test_a_stream_that_does_not_exist_is_left_alone(client: Redis) -> None:
    assert await TRIM.call(client, {"stream": "{eventlog}:none:0"}, {"retention_ms": 0}) == 0
    assert await client.exists("{eventlog}:none:0") == 0
