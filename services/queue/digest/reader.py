"""Takes digests, one at a time for each event, however many want one."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from cachetools import LRUCache

from services.common import metrics
from services.queue.catalog import EventCatalog
from services.queue.digest.report import Digest, digest_of
from services.queue.digest.store import DigestStore
from services.queue.line.store import LineStore

# Events whose newest digest is remembered: some 100 kB each while a million wait, and next to nothing for quiet ones.
_MAX_EVENTS: Final = 256
# A forecast is renewed when it is older, and not told at all when it is much older.
_RENEWED_SECONDS: Final = 1.0
_OLDEST_SECONDS: Final = 10.0


class DigestReader:
    """The newest digest of each event that was asked for."""

    def __init__(self, read: Callable[[int], Awaitable[Digest]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._newest: LRUCache[int, tuple[float, Digest]] = LRUCache(_MAX_EVENTS)
        self._taking: dict[int, asyncio.Task[Digest]] = {}

    async def digest(self, event_id: int, max_age: timedelta) -> Digest:
        """A digest that is not older than `max_age`. Raises EventNotFound, Unavailable, RedisError."""
        taken_at, digest = self._newest.get(event_id, (float("-inf"), None))
        if digest is not None and self._clock() - taken_at <= max_age.total_seconds():
            return digest
        return await asyncio.shield(self._start(event_id))

    async def recent(self, event_id: int) -> Digest:
        """A digest of the last seconds, without waiting for it unless there is none. Raises as `digest`."""
        taken_at, digest = self._newest.get(event_id, (float("-inf"), None))
        age = self._clock() - taken_at
        if digest is None or age > _OLDEST_SECONDS:
            return await asyncio.shield(self._start(event_id))
        if age > _RENEWED_SECONDS:
            self._start(event_id)
        return digest

    def _start(self, event_id: int) -> asyncio.Task[Digest]:
        """One reading for all who want it; it must not end because one of them goes away, hence the shields."""
        task = self._taking.get(event_id)
        if task is None:
            # In an empty context, so that the first one's deadline does not bound the others.
            task = asyncio.get_running_loop().create_task(self._take(event_id), context=contextvars.Context())
            self._taking[event_id] = task
            task.add_done_callback(lambda done: self._taken(event_id, done))
        return task

    async def _take(self, event_id: int) -> Digest:
        started = self._clock()
        with metrics.QUEUE_DIGEST_DURATION.time():
            digest = await self._read(event_id)
        self._newest[event_id] = started, digest
        return digest

    def _taken(self, event_id: int, task: asyncio.Task[Digest]) -> None:
        del self._taking[event_id]
        if not task.cancelled():
            task.exception()  # Seen, even when everyone who asked has gone.


def reader_of(store: DigestStore, lines: LineStore, catalog: EventCatalog) -> DigestReader:
    """Reads digests from Redis, by the rules and the opening hours of each sale."""

    async def read(event_id: int) -> Digest:
        sale = await catalog.sale(event_id)
        policy = await lines.policy(event_id)
        return digest_of(await store.snapshot(event_id), policy, sale)

    return DigestReader(read)
