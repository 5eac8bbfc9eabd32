"""The admission loop: who is called when, and the telling of it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from redis.exceptions import RedisError

from services.common import metrics
from services.common.eventlog.port import EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS
from services.common.telemetry import current_traceparent, span
from services.queue import packing
from services.queue.admission.failures import Failures
from services.queue.catalog import EventCatalog
from services.queue.line.domain import EventNotFound, Sale
from services.queue.line.store import LineStore
from services.queue.line.transitions import Tick

# Calls in one record: some 20 kB.
_RECORD_CALLS: Final = 500
# Full batches are followed by another at once. Eight in each of five ticks a second reach the highest rate of a policy.
_ROUNDS: Final = 8
# An event that inventory no longer knows: its places run out, nobody is called.
_OVER: Final = Sale(open_time=datetime(1970, 1, 1, tzinfo=UTC), close_time=datetime(1970, 1, 1, tzinfo=UTC))

_log = logging.getLogger(__name__)


class CallPublisher:
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


class AdmissionLoop:
    """Ticks every event whose line lives. Any number of processes may run one; the script alone keeps the bounds."""

    def __init__(self, store: LineStore, catalog: EventCatalog, publisher: CallPublisher) -> None:
        self._store = store
        self._catalog = catalog
        self._publisher = publisher
        self._failures = Failures("admission")

    async def tick(self) -> None:
        """Ends what has run out and calls whom the policy allows, in every live line."""
        with metrics.QUEUE_TICK_DURATION.time():  # as a decorator it would measure how long a coroutine takes to make
            await self._tick()

    async def _tick(self) -> None:
        sales = await self._sales(await self._store.active_events())
        waiting = inside = 0
        for event_id, tick in (await self._admit(sales)).items():
            waiting, inside = waiting + tick.waiting, inside + tick.inside
            if tick.unpublished:
                self._publisher.nudge(event_id)
            if tick.is_quiet:
                await self._store.retire(event_id)
        metrics.QUEUE_WAITING.set(waiting)
        metrics.QUEUE_INSIDE.set(inside)

    async def _sales(self, event_ids: Sequence[int]) -> dict[int, Sale]:
        answers = await asyncio.gather(*map(self._catalog.sale, event_ids), return_exceptions=True)
        known = {
            event_id: _OVER if isinstance(answer, EventNotFound) else answer
            for event_id, answer in zip(event_ids, answers, strict=True)
        }
        # An event that inventory could not tell about yet waits for the next tick.
        return {event_id: sale for event_id, sale in known.items() if isinstance(sale, Sale)}

    async def _admit(self, sales: Mapping[int, Sale]) -> dict[int, Tick]:
        ticks: dict[int, Tick] = {}
        for _ in range(_ROUNDS):
            latest = self._failures.without(await self._store.admit_many(sales))
            ticks.update(latest)
            metrics.QUEUE_CALLED.inc(sum(tick.called for tick in latest.values()))
            metrics.QUEUE_ENDED.labels("expired").inc(sum(tick.expired for tick in latest.values()))
            _report_jumpers(latest)
            sales = {event_id: sales[event_id] for event_id, tick in latest.items() if tick.is_full}
            if not sales:
                break
        return ticks


def _report_jumpers(ticks: Mapping[int, Tick]) -> None:
    for event_id, tick in ticks.items():
        if tick.jumpers:
            metrics.QUEUE_JUMPERS.inc(tick.jumpers)
            fields = {"event_id": event_id, "jumpers": tick.jumpers, "called": tick.called}
            _log.error("people were called out of order or beyond the cap", extra={"fields": fields})
