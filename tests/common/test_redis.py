"""How Redis is opened: bounded, in time, and no command twice."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.common import redis as common_redis
from services.common.redis import open_redis
from tests.support import eventually

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _listening(handler: Handler) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


def _dropping_an_answer(target: str, executed: list[bytes]) -> Handler:
    """A proxy that carries the first INCR to the server, and closes the connection instead of bringing the answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(target)
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        with contextlib.closing(writer), contextlib.closing(server_writer), contextlib.suppress(asyncio.CancelledError):
            while data := await reader.read(65536):
                server_writer.write(data)
                answer = await server_reader.read(65536)
                if b"INCR" in data:
                    executed.append(answer)
                    if len(executed) == 1:
                        return
                writer.write(answer)

    return handle


async def test_answers_are_bytes_and_the_database_of_the_url_is_used(redis_url: str) -> None:
    async with open_redis(redis_url) as client:
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        assert f"db={urlsplit(redis_url).path.strip('/')}" in str(client.connection_pool)


async def test_a_command_whose_answer_is_lost_is_not_repeated(redis_url: str) -> None:
    executed: list[bytes] = []
    async with _listening(_dropping_an_answer(redis_url, executed)) as url, open_redis(url) as client:
        with pytest.raises(RedisConnectionError):
            await client.incr("counter")
    assert len(executed) == 1


async def test_control_the_drivers_own_policy_would_repeat_it(redis_url: str) -> None:
    executed: list[bytes] = []
    async with _listening(_dropping_an_answer(redis_url, executed)) as url:
        client = Redis(host="127.0.0.1", port=urlsplit(url).port or 0)
        assert await client.incr("counter") > 1
        await client.aclose()


async def test_connecting_is_retried(redis_url: str) -> None:
    refused = 0

    async def refuse_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        if refused < 2:
            refused += 1
            writer.close()
        else:
            await _dropping_an_answer(redis_url, [])(reader, writer)

    async with _listening(refuse_twice) as url, open_redis(url) as client:
        assert await client.ping()
    assert refused == 2


async def test_nobody_listening_is_told_within_seconds(unused_port: int) -> None:
    begin = time.monotonic()
    async with open_redis(f"redis://127.0.0.1:{unused_port}/0") as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()
    assert time.monotonic() - begin < 3


async def test_the_pool_is_bounded_and_waiting_for_it_too(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_redis, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(common_redis, "POOL_WAIT_SECONDS", 0.1)
    async with open_redis(redis_url) as client:
        blocked = [asyncio.ensure_future(client.blpop([f"nothing-{number}"], timeout=2)) for number in range(2)]
        await eventually(lambda: len(client.connection_pool._in_use_connections) == 2)
        with pytest.raises(RedisConnectionError):
            await client.ping()
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        assert await client.ping()


async def _loses_a_cancellation(client: Redis, attempts: int) -> bool:
    """Whether a task that was cancelled while it talks to Redis lives on."""
    await client.ping()
    for attempt in range(attempts):
        task = asyncio.create_task(_talk(client))
        for _ in range(attempt % 12):
            await asyncio.sleep(0)
        task.cancel()
        _, alive = await asyncio.wait([task], timeout=0.5)
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
        if alive:
            return True
    return False


async def _talk(client: Redis) -> None:
    while True:
        await client.set("key", "value")


async def test_a_cancelled_command_ends_its_task(redis_url: str) -> None:
    async with open_redis(redis_url) as client:
        assert not await _loses_a_cancellation(client, 240)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio.wait_for was repaired in Python 3.12")
async def test_control_the_drivers_own_connection_loses_cancellations(redis_url: str) -> None:
    client = Redis.from_url(redis_url, socket_timeout=5)
    assert await _loses_a_cancellation(client, 240)
    await client.aclose()


@pytest.fixture
async def unused_port() -> int:
    async def nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async with _listening(nothing) as url:
        return urlsplit(url).port or 0
