"""What was promised of a draw before anyone entered, on the topic `queue.lines`: kept there, and told for ever.

The first commitment of an event, in the order of the log, is the promise. It is written when the line begins to live,
or when somebody asks before that; whatever secret a process has later, it tells this one, and holds no draw without the
seed that belongs to it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from boxoffice.queue.v1 import queue_events_pb2 as pb
from cachetools import LRUCache, TTLCache

from services.common import draw, metrics
from services.common.eventlog.port import EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_LINES
from services.queue.draw.outcome import PromiseBroken, Seeds

# A promise never changes. A thousand of them take a hundred kB.
_PROMISES: Final = 1_000
# Draws that are older than promises are told without one, and the log is not read each time to find that out.
_ABSENT_SECONDS: Final = 60.0
# Draws are dated by the clocks of the log or of its writers, lines by Redis'. No draw is so much older than its line.
_CLOCKS_APART: Final = timedelta(days=1)

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the log tells of an event's line."""

    commitment: bytes | None = None
    since: datetime | None = None


class Promises:
    """The commitments of all events. Every method that reads raises EventLogUnavailable."""

    def __init__(self, log: EventLog, writer: EventLogWriter, seeds: Seeds) -> None:
        self._log = log
        self._writer = writer
        self._seeds = seeds
        self._known: LRUCache[int, bytes] = LRUCache(_PROMISES)
        self._absent: TTLCache[int, bool] = TTLCache(_PROMISES, _ABSENT_SECONDS, time.monotonic)
        self._reading = asyncio.Lock()
        self._broken: set[int] = set()

    async def find(self, event_id: int) -> bytes | None:
        """SHA-256 of the seed, as it was promised; None where it never was."""
        return self._known.get(event_id) or await self._alone(self._find, event_id)

    async def commitment(self, event_id: int) -> bytes:
        """SHA-256 of the seed, as it was promised; from now on for ever, where it never was."""
        promised = self._known.get(event_id)
        if promised is None:
            promised = await self._alone(self._find_or_promise, event_id)
        if promised != self._seeds.commitment(event_id):
            self._report(event_id)
        return promised

    async def seed(self, event_id: int) -> bytes:
        """The seed that was promised. Raises PromiseBroken: the secret of draws was changed meanwhile."""
        seed = self._seeds.seed(event_id)
        if draw.commitment(seed) != await self.commitment(event_id):
            raise PromiseBroken
        return seed

    async def earliest(self, event_id: int) -> datetime | None:
        """No draw of this event was held before; None where that is not known.

        That is when its line began, and not the opening of its sale: an opening may be moved behind a draw.
        """
        since = (await self._read(event_id)).since
        return since and since - _CLOCKS_APART

    async def _alone(self, step: Callable[[int], Awaitable[T]], event_id: int) -> T:
        """Anyone may ask, many at once; the log is asked once for them."""
        async with self._reading:
            return await step(event_id)

    async def _find(self, event_id: int) -> bytes | None:
        if event_id not in self._known and event_id not in self._absent:
            found = (await self._read(event_id)).commitment
            if found is None:
                self._absent[event_id] = True
            else:
                self._known[event_id] = found
        return self._known.get(event_id)

    async def _find_or_promise(self, event_id: int) -> bytes:
        promised = await self._find(event_id)
        if promised is None:
            record = pb.LineRecord(event_id=event_id, commitment=self._seeds.commitment(event_id))
            await self._writer.append(QUEUE_LINES, str(event_id), record.SerializeToString(), {})
            self._absent.pop(event_id, None)
            promised = await self._find(event_id)  # another process may have been first
        if promised is None:  # a broker that took over may not know yet how far it may tell
            raise EventLogUnavailable("an acknowledged promise cannot be read back yet")
        return promised

    async def _read(self, event_id: int) -> _Told:
        """The first of each that the log has. One small topic is read."""
        commitment: bytes | None = None
        since: datetime | None = None
        async with aclosing(self._log.read_all(QUEUE_LINES, key=str(event_id))) as records:
            async for record in records:
                told = pb.LineRecord.FromString(record.value)
                commitment = commitment or told.commitment or None
                if since is None and told.HasField("time"):
                    since = told.time.ToDatetime(UTC)
        return _Told(commitment, since)

    def _report(self, event_id: int) -> None:
        metrics.QUEUE_EVENT_FAILURES.labels("promise").inc()
        if event_id not in self._broken:
            self._broken.add(event_id)
            _log.error(
                "the secret of draws is not the one that this event's commitment was made with: its draw is not held",
                extra={"fields": {"event_id": event_id}},
            )
