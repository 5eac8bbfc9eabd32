"""Rebuilds a line that Redis does not have, once: whoever needs it meanwhile waits for that."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, Protocol

from redis.exceptions import RedisError

from services.common import metrics
from services.common.errors import Unavailable
from services.common.eventlog.port import EventLogUnavailable
from services.queue.line.rules import policy_fields
from services.queue.line.times import to_ms
from services.queue.restore.book import LineBook, Memory
from services.queue.restore.history import History
from services.queue.restore.store import Opening, RestoreStore

# How often to look while another process is at it, and how long a caller waits, who has 5 seconds.
_POLL: Final = timedelta(milliseconds=50)
_WAIT: Final = timedelta(seconds=4)
_NOT_BUILT: Final = "the line is being restored; try again"

_log = logging.getLogger(__name__)


class Draws(Protocol):
    """What a rebuild needs of the draws."""

    async def restore(self, event_id: int, attempt: str) -> object:
        """Puts the outcome of the draw back into Redis, if it was held. Raises EventLogUnavailable, LineLost."""


class Rebuilder:
    """Brings lines (back) to life: a new one at once, a lost one from the event log, waiting for those who return."""

    def __init__(
        self,
        store: RestoreStore,
        book: LineBook,
        draws: Draws,
        *,
        activate: Callable[[int], Awaitable[None]],
        grace: timedelta,
        limit: timedelta,
    ) -> None:
        """`activate` has a line ticked: those who were called may be the only ones who come back."""
        self._store = store
        self._book = book
        self._draws = draws
        self._activate = activate
        self._grace = grace
        self._limit = limit
        self._rebuilding: dict[int, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        """Gives up rebuilds that are under way; another process, or the next one, begins anew."""
        under_way = list(self._rebuilding.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def ensure(self, event_id: int) -> None:
        """Returns when the line is built. Concurrent callers share the work, and its failure.

        Raises Unavailable: it takes longer. EventLogUnavailable: what happened cannot be known now.
        """
        task = self._task(event_id)
        done, _ = await asyncio.wait({task}, timeout=_WAIT.total_seconds())
        if not done:
            raise Unavailable(_NOT_BUILT)
        await task

    def nudge(self, event_id: int) -> None:
        """Has the line built, and does not wait: for loops, which come again."""
        self._task(event_id)

    def _task(self, event_id: int) -> "asyncio.Task[None]":
        task = self._rebuilding.get(event_id)
        if task is None:
            # In an empty context: it is for everybody, and must not end with the deadline of who came first.
            task = asyncio.get_running_loop().create_task(self._until_built(event_id), context=contextvars.Context())
            self._rebuilding[event_id] = task
            task.add_done_callback(lambda done: self._ended(event_id, done))
        return task

    def _ended(self, event_id: int, task: "asyncio.Task[None]") -> None:
        del self._rebuilding[event_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            metrics.QUEUE_REBUILDS.labels("failed").inc()
            expected = isinstance(error, EventLogUnavailable | RedisError)
            fields = {"event_id": event_id, "error": type(error).__name__}
            _log.warning("a line cannot be rebuilt yet", exc_info=None if expected else error, extra={"fields": fields})

    async def _until_built(self, event_id: int) -> None:
        # Who is at it may die: then the lock ends, and this process takes over.
        while not await self._store.is_built(event_id) and not await self.rebuild(event_id):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_POLL.total_seconds())

    async def rebuild(self, event_id: int) -> bool:
        """Builds the line as the event log tells it; false when another process is at it, or was first."""
        async with self._store.lock(event_id) as attempt:
            return attempt is not None and await self._rebuild(event_id, attempt)

    async def _rebuild(self, event_id: int, attempt: str) -> bool:
        began = asyncio.get_running_loop().time()
        memory = await self._book.memory(event_id)
        history = await self._history(event_id, memory)
        # Before there is a line: a crash between the two costs some idle ticks.
        await self._activate(event_id)
        if not await self._store.begin(event_id, attempt):
            return False
        if not await self._write(event_id, attempt, memory, history):
            return False
        outcome = "new" if memory.since is None else "restored"
        metrics.QUEUE_REBUILDS.labels(outcome).inc()
        metrics.QUEUE_RESTORED.labels("log").inc(len(history.latest))
        if memory.since is not None:
            seconds = round(asyncio.get_running_loop().time() - began, 3)
            fields = {"event_id": event_id, "places": len(history.latest), "seconds": seconds}
            _log.warning("a line was lost and is rebuilt; places come back now", extra={"fields": fields})
        return True

    async def _history(self, event_id: int, memory: Memory) -> History:
        if memory.since is not None:
            return await self._book.history(event_id, memory.since)
        # Before the line is there: a line that lives is always remembered.
        await self._book.begins(event_id, await self._store.now())
        return History()

    async def _write(self, event_id: int, attempt: str, memory: Memory, history: History) -> bool:
        if memory.since is not None:
            await self._draws.restore(event_id, attempt)
        now_ms = to_ms(await self._store.now())
        if not await self._store.write(event_id, attempt, history.places(now_ms)):
            return False
        opening = Opening(memory.since is not None, self._grace, self._limit)
        return await self._store.open(event_id, attempt, opening, history, _rules(memory))


def _rules(memory: Memory) -> Mapping[bytes, bytes]:
    if memory.policy is None:
        return {}
    return {**policy_fields(memory.policy), b"version": str(memory.version).encode()}
