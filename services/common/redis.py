"""The one way to open Redis (or Valkey): bounded, with time-outs, and never sending a command twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

MAX_CONNECTIONS = 64
"""Per process. Commands travel in pipelines, so that more would only queue up inside the server."""
POOL_WAIT_SECONDS = 2.0
CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0
"""Longer than any blocking read in this code base (at most one second), shorter than a caller's patience."""


class _PatientConnect:
    """Retries the connection, which is harmless, and not the command, which may have been carried out already.

    redis-py has one retry policy for both; the pool is given one that never retries, and connecting its own here.
    """

    async def connect(self: Any) -> None:
        """Connects unless connected, trying three times within about a second."""
        retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), 3)
        await retry.call_with_retry(
            lambda: self.connect_check_health(check_health=True, retry_socket_connect=False),
            lambda _error: self.disconnect(),
        )


class _PlainConnection(_PatientConnect, Connection):
    """TCP."""


class _TlsConnection(_PatientConnect, SSLConnection):
    """TLS."""


def _pool(url: str) -> BlockingConnectionPool:
    options: dict[str, Any] = dict(parse_url(url))
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
