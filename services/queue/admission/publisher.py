"""What happened in the line, told to the event log."""

import asyncio
import logging
from typing import Final

from redis.exceptions import RedisError

from services.common import metrics
from services.common.eventlog.port import EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS
from services.common.telemetry import current_traceparent, span
from services.queue import packing
from services.queue.line.store import LineStore

# Calls in one record: some 20 kB.
_RECORD_CALLS: Final = 500

_log = logging.getLogger(__name__)


class FactPublisher:
    """Tells the event log who was called. A call stays in the line's outbox until the log has acknowledged it."""

    def __init__(self, store: LineStore, writer: EventLogWriter) -> None:
        self._store = store
        self._writer = writer
        self._wanted: set[int] = set()
        self._nudged = asyncio.Event()

    def nudge(self, event_id: int) -> None:
        """Says that an event has calls to tell. Repeated by every tick until they are told."""
        self._wanted.add(event_id)
        self._nudged.set()

    async def run(self) -> None:
        """Publishes until cancelled. While something is away the calls wait, and the next tick nudges again."""
        while True:
            await self._nudged.wait()
            self._nudged.clear()
            while self._wanted:
                event_id = self._wanted.pop()
                try:
                    await self.publish(event_id)
                except Exception as error:  # noqa: BLE001 - the calls of one event must not hold up those of others
                    fields = {"event_id": event_id, "error": type(error).__name__}
                    cause = None if isinstance(error, EventLogUnavailable | RedisError) else error
                    metrics.QUEUE_EVENT_FAILURES.labels("calls").inc()
                    _log.warning("calls cannot be told, they wait", exc_info=cause, extra={"fields": fields})

    async def publish(self, event_id: int) -> None:
        """Publishes every waiting call of an event, in order. At least once: a repeat carries the same fact ids."""
        while calls := await self._store.unpublished(event_id, _RECORD_CALLS):
            with span("queue.publish", calls=len(calls)):
                headers = {"traceparent": current_traceparent()}
                record = packing.calls(event_id, calls)
                await self._writer.append(QUEUE_EVENTS, str(event_id), record, headers)
                await self._store.forget(event_id, calls)
