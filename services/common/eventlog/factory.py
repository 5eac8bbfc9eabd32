"""Chooses the adapter by the URL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from services.common.eventlog.port import EventLog
from services.common.urls import check_event_log_url


@asynccontextmanager
async def open_event_log(url: str) -> AsyncIterator[EventLog]:
    """Yields the log at `kafka://host:port[,host:port]` or `redis://host:port/db` (or `rediss://`).

    Connects when first used. An adapter is imported only when it is chosen.
    """
    if urlsplit(check_event_log_url(url)).scheme == "kafka":
        from services.common.eventlog.kafka import open_kafka

        async with open_kafka(url) as log:
            yield log
    else:
        from services.common.eventlog.redis_streams import open_redis_streams

        async with open_redis_streams(url) as log:
            yield log
