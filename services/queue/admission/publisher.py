"""What happened in the line, told to the event log."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from redis.exceptions import RedisError

from services.common import metrics
from services.common.coalesce import Coalescer
from services.common.eventlog.port import EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS
from services.common.telemetry import current_traceparent, span
from services.queue import packing
from services.queue.line.store import LineStore
from services.queue.line.transitions import Fact

# Facts in one record: some 30 kB.
_RECORD_FACTS: Final = 500
# Who waits for the log is told that it is away before the 5 seconds of a request are over.
_PATIENCE: Final = timedelta(seconds=4)
# More than can wait: one pass serves everyone who came before it began.
_EVERYONE: Final = 10_000

# Hears, in this process, what was told: the facts of one event, in order.
Listener = Callable[[int, Sequence[Fact]], None]

_log = logging.getLogger(__name__)


class FactPublisher:
    """Tells the event log what happened. A fact stays in the line's outbox until the log has acknowledged it."""

    def __init__(
        self, store: LineStore, writer: EventLogWriter, heard: Listener = lambda _event_id, _facts: None
    ) -> None:
        self._store = store
        self._writer = writer
        self._heard = heard
        self._wanted: set[int] = set()
        self._nudged = asyncio.Event()
        self._passes: WeakValueDictionary[int, Coalescer[None, None]] = WeakValueDictionary()

    def nudge(self, event_id: int) -> None:
        """Says that an event has facts to tell. Repeated by every tick until they are told."""
        self._wanted.add(event_id)
        self._nudged.set()

    async def run(self) -> None:
        """Publishes until cancelled. While something is away the facts wait, and the next tick nudges again."""
        while True:
            await self._nudged.wait()
            self._nudged.clear()
            while self._wanted:
                event_id = self._wanted.pop()
                try:
                    await self.told(event_id)
                except Exception as error:  # noqa: BLE001 - the facts of one event must not hold up those of others
                    fields = {"event_id": event_id, "error": type(error).__name__}
                    cause = None if isinstance(error, EventLogUnavailable | RedisError) else error
                    metrics.QUEUE_EVENT_FAILURES.labels("facts").inc()
                    _log.warning("facts cannot be told, they wait", exc_info=cause, extra={"fields": fields})

    async def told(self, event_id: int) -> None:
        """Returns when the log has everything that had happened in the line when this was called.

        Many callers share a pass over the outbox. Raises EventLogUnavailable: it has not, as far as is known.
        """
        passes = self._passes.get(event_id)
        if passes is None:
            send = partial(self._pass, event_id)
            # One at a time: a second one beside it would tell the same facts again.
            passes = self._passes[event_id] = Coalescer(send, _EVERYONE, max_in_flight=1, name="queue-facts")
        try:
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                await passes.submit(None)
        except TimeoutError as error:
            raise EventLogUnavailable("the facts of the line are not acknowledged yet") from error

    async def _pass(self, event_id: int, waiting: list[None]) -> list[None]:
        await self.publish(event_id)
        return waiting

    async def publish(self, event_id: int) -> None:
        """Publishes what is in the outbox of an event, in order. At least once: a repeat carries the same fact ids."""
        while facts := await self._store.unpublished(event_id, _RECORD_FACTS):
            with span("queue.publish", facts=len(facts)):
                headers = {"traceparent": current_traceparent()}
                record = packing.facts(event_id, facts)
                await self._writer.append(QUEUE_EVENTS, str(event_id), record, headers)
                await self._store.forget(event_id, facts)
            self._heard(event_id, facts)
            if len(facts) < _RECORD_FACTS:
                break
