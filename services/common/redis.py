"""The one way to open Redis (or Valkey): bounded, with time-outs, and never sending a command twice."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from services.common.urls import check_redis_url

MAX_CONNECTIONS = 64
"""Per process. Commands travel in pipelines, so that more would only queue up inside the server."""
POOL_WAIT_SECONDS = 2.0
CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0
"""Longer than any blocking read in this code base (at most one second), shorter than a caller's patience."""


class _Repaired:
    """Two repairs of redis-py's connection."""

    async def connect(self: Any) -> None:
        """Connects unless connected, trying four times within about a second.

        Connecting again is harmless; repeating a command is not, since it may have been carried out. redis-py has one
        retry policy for both: the pool gets one that never retries, and connecting has its own here.
        """
        retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), 3)
        await retry.call_with_retry(
            lambda: self.connect_check_health(check_health=True, retry_socket_connect=False),
            lambda _error: self.disconnect(),
        )

    async def send_packed_command(self: Any, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Sends a command.

        redis-py awaits this in asyncio.wait_for, which in Python 3.11 loses a cancellation that arrives while what it
        waits for is done: the task would live on. asyncio.timeout does not, and needs no task per command.
        """
        del check_health  # the pool has no health checks
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        encoded = command.encode() if isinstance(command, str) else command
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await self._send_packed_command([encoded] if isinstance(encoded, bytes) else encoded)
        except OSError as error:  # TimeoutError is one too
            await self.disconnect(nowait=True)
            raise redis.exceptions.ConnectionError("the command could not be sent") from error
        except BaseException:  # half a command may be on its way
            await self.disconnect(nowait=True)
            raise


class _PlainConnection(_Repaired, Connection):
    """TCP."""


class _TlsConnection(_Repaired, SSLConnection):
    """TLS."""


def _pool(url: str) -> BlockingConnectionPool:
    options: dict[str, Any] = dict(parse_url(check_redis_url(url)))
    tls = options.pop("connection_class", None) is SSLConnection
    return BlockingConnectionPool(
        max_connections=MAX_CONNECTIONS,
        timeout=POOL_WAIT_SECONDS,
        connection_class=_TlsConnection if tls else _PlainConnection,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=REPLY_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # replies have one shape, whatever the server
        **options,
    )


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """Yields a client of `redis://[user:password@]host:port/db` (or `rediss://`) that answers bytes.

    Nothing is connected until the first command. A command whose answer is lost raises redis.exceptions.TimeoutError or
    ConnectionError and is not repeated: it may or may not have happened.
    """
    client = redis.asyncio.Redis.from_pool(_pool(url))
    try:
        yield client
    finally:
        await client.aclose()
