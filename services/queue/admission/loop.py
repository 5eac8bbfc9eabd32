"""The admission loop: who is called when."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from services.common import metrics
from services.queue.admission.lease import Leases
from services.queue.admission.publisher import FactPublisher
from services.queue.catalog import EventCatalog
from services.queue.failures import Failures
from services.queue.line.domain import EventNotFound, Fenced, NotBuilt, Sale
from services.queue.line.store import LineStore
from services.queue.line.transitions import Tick

# Full batches are followed by another at once. Eight in each of five ticks a second reach the highest rate of a policy.
_ROUNDS: Final = 8
# An event that inventory no longer knows: its places run out, nobody is called.
_OVER: Final = Sale(open_time=datetime(1970, 1, 1, tzinfo=UTC), close_time=datetime(1970, 1, 1, tzinfo=UTC))

_log = logging.getLogger(__name__)


class AdmissionLoop:
    """Ticks every event whose line lives, and of which this process has the lease; without `leases` every such event.

    Any number of processes may run one, with leases or without: the script alone keeps the bounds.
    """

    def __init__(
        self,
        store: LineStore,
        catalog: EventCatalog,
        publisher: FactPublisher,
        hold_draw: Callable[[int, Sale], None],
        *,
        leases: Leases | None = None,
        pace: Callable[[], float] = lambda: 1.0,
        rebuild: Callable[[int], None] = lambda _event_id: None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._publisher = publisher
        self._hold_draw = hold_draw
        self._leases = leases
        self._pace = pace
        self._rebuild = rebuild
        self._failures = Failures("admission")
        # Events in which people can be called now, as of the last tick.
        self.calling: frozenset[int] = frozenset()

    async def tick(self) -> None:
        """Ends what has run out and calls whom the policy allows, in every live line."""
        with metrics.QUEUE_TICK_DURATION.time():  # as a decorator it would measure how long a coroutine takes to make
            await self._tick()

    async def _tick(self) -> None:
        held = await self._hold(await self._store.upkeep.active_events())
        sales = await self._sales(held)
        waiting = inside = 0
        ticks = await self._admit(sales, {each: fence for each, fence in held.items() if fence is not None})
        self.calling = frozenset(event_id for event_id, tick in ticks.items() if tick.calling)
        for event_id, tick in ticks.items():
            waiting, inside = waiting + tick.waiting, inside + tick.inside
            if tick.unpublished:
                self._publisher.nudge(event_id)
            if tick.needs_draw:
                self._hold_draw(event_id, sales[event_id])
            if tick.is_quiet:
                await self._store.upkeep.retire(event_id, None if tick.over else sales[event_id].close_time)
        metrics.QUEUE_WAITING.set(waiting)
        metrics.QUEUE_INSIDE.set(inside)

    async def _hold(self, event_ids: Sequence[int]) -> Mapping[int, int | None]:
        """The events that are to be ticked, each with its fence, or with None to be ticked without one."""
        return dict.fromkeys(event_ids) if self._leases is None else await self._leases.hold(event_ids)

    async def _sales(self, event_ids: Collection[int]) -> dict[int, Sale]:
        answers = await asyncio.gather(*map(self._catalog.sale, event_ids), return_exceptions=True)
        known = {
            event_id: _OVER if isinstance(answer, EventNotFound) else answer
            for event_id, answer in zip(event_ids, answers, strict=True)
        }
        # An event that inventory could not tell about yet waits for the next tick.
        return {event_id: sale for event_id, sale in known.items() if isinstance(sale, Sale)}

    async def _admit(self, sales: Mapping[int, Sale], fences: Mapping[int, int]) -> dict[int, Tick]:
        ticks: dict[int, Tick] = {}
        for _ in range(_ROUNDS):
            paces = dict.fromkeys(sales, self._pace())
            outcomes = await self._store.admit_many(sales, fences=fences, paces=paces)
            latest = self._failures.without(self._without_unbuilt(self._without_fenced(outcomes)))
            ticks.update(latest)
            metrics.QUEUE_CALLED.inc(sum(tick.called for tick in latest.values()))
            metrics.QUEUE_ENDED.labels("expired").inc(sum(tick.expired for tick in latest.values()))
            _report_jumpers(latest)
            sales = {event_id: sales[event_id] for event_id, tick in latest.items() if tick.is_full}
            if not sales:
                break
        return ticks

    def _without_fenced(self, outcomes: Mapping[int, Tick | Exception]) -> dict[int, Tick | Exception]:
        fenced = {event_id for event_id, outcome in outcomes.items() if isinstance(outcome, Fenced)}
        for event_id in fenced:
            if self._leases is not None:
                self._leases.drop(event_id)
        return {event_id: outcome for event_id, outcome in outcomes.items() if event_id not in fenced}

    def _without_unbuilt(self, outcomes: Mapping[int, Tick | Exception]) -> dict[int, Tick | Exception]:
        """Has lost lines rebuilt, also when those who were called do not look: others wait for their slots."""
        unbuilt = {event_id for event_id, outcome in outcomes.items() if isinstance(outcome, NotBuilt)}
        for event_id in unbuilt:
            self._rebuild(event_id)
        return {event_id: outcome for event_id, outcome in outcomes.items() if event_id not in unbuilt}


def _report_jumpers(ticks: Mapping[int, Tick]) -> None:
    for event_id, tick in ticks.items():
        if tick.jumpers:
            metrics.QUEUE_JUMPERS.inc(tick.jumpers)
            fields = {"event_id": event_id, "jumpers": tick.jumpers, "called": tick.called}
            _log.error("people were called out of order or beyond the cap", extra={"fields": fields})
