"""Chooses the adapter by the URL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from services.common.eventlog.port import EventLog


@asynccontextmanager
async def open_event_log(url: str) -> AsyncIterator[EventLog]:
    """Yields the log at `kafka://host:port[,host:port]` or `redis://host:port/db` (or `rediss://`).

    Connects when first used. An adapter is imported only when it is chosen.
    """
    scheme = urlsplit(url).scheme
    if scheme == "kafka":
        from services.common.eventlog.kafka import open_kafka

        async with open_kafka(url) as log:
            yield log
    elif scheme in {"redis", "rediss"}:
        from services.common.eventlog.redis_streams import open_redis_streams

        async with open_redis_streams(url) as log:
            yield log
    else:
        raise ValueError(f"an event log URL starts with kafka:// or redis://, not {scheme!r}")
