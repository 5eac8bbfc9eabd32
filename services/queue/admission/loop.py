"""The admission loop: who is called when."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from services.common import metrics
from services.queue.admission.failures import Failures
from services.queue.admission.publisher import FactPublisher
from services.queue.catalog import EventCatalog
from services.queue.line.domain import EventNotFound, Sale
from services.queue.line.store import LineStore
from services.queue.line.transitions import Tick

# Full batches are followed by another at once. Eight in each of five ticks a second reach the highest rate of a policy.
_ROUNDS: Final = 8
# An event that inventory no longer knows: its places run out, nobody is called.
_OVER: Final = Sale(open_time=datetime(1970, 1, 1, tzinfo=UTC), close_time=datetime(1970, 1, 1, tzinfo=UTC))

_log = logging.getLogger(__name__)


class AdmissionLoop:
    """Ticks every event whose line lives. Any number of processes may run one; the script alone keeps the bounds."""

    def __init__(
        self,
        store: LineStore,
        catalog: EventCatalog,
        publisher: FactPublisher,
        hold_draw: Callable[[int, Sale], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._publisher = publisher
        self._hold_draw = hold_draw
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
            if tick.needs_draw:
                self._hold_draw(event_id, sales[event_id])
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
