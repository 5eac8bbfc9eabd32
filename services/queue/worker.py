"""Work in the background: steps at a steady pace, and what queue hears from inventory."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, timedelta
from typing import Final

from boxoffice.inventory.v1 import booking_events_pb2 as pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb

from services.common import metrics
from services.common.eventlog.consumer import consume, is_outage
from services.common.eventlog.port import EventLog, Record
from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_DRAWS, QUEUE_EVENTS, QUEUE_LINES, SALE_PROGRESS, dead
from services.common.eventlog.topics import TOPICS as ALL_TOPICS
from services.queue.failures import Failures
from services.queue.line.domain import NotBuilt
from services.queue.line.store import LineStore
from services.queue.line.transitions import Progress, Purchase

GROUP: Final = "queue"
TOPICS: Final = (BOOKING_EVENTS, SALE_PROGRESS)

# Has a line built that is not there; raises what says that it is to be tried again.
Build = Callable[[int], Awaitable[None]]

_log = logging.getLogger(__name__)


async def every(interval: timedelta, step: Callable[[], Awaitable[None]], name: str) -> None:
    """Runs `step` at a steady pace until cancelled.

    A failing step keeps the pace instead of pausing longer and longer: people wait for the first tick after an outage.
    """
    clock = asyncio.get_running_loop().time
    failing = False
    while True:
        started = clock()
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - whatever failed, the next step may succeed
            metrics.BACKGROUND_RESTARTS.labels(name).inc()
            if not failing:
                _log.warning("step failed, and is repeated", exc_info=error, extra={"fields": {"task": name}})
            failing = True
        else:
            if failing:
                _log.info("step succeeds again", extra={"fields": {"task": name}})
            failing = False
        await asyncio.sleep(max(0.0, started + interval.total_seconds() - clock()))


async def listen(log: EventLog, store: LineStore, build: Build) -> None:
    """Follows bookings and the progress of sales until cancelled. Makes the topics that queue reads and writes."""
    failures = Failures("events")

    async def handle(records: list[Record]) -> None:
        await handle_records(store, records, build, failures)

    own = (*TOPICS, QUEUE_EVENTS, QUEUE_DRAWS, QUEUE_LINES)
    await log.create_topics({name: ALL_TOPICS[name] for topic in own for name in (topic, dead(topic))})
    await consume(log, GROUP, TOPICS, handle)


async def handle_records(store: LineStore, records: Iterable[Record], build: Build, failures: Failures) -> None:
    """Ends the places of who has bought, and keeps how many seats are left. Safe to repeat."""
    purchases: list[Purchase] = []
    reports: list[Progress] = []
    for record in records:
        if record.topic == BOOKING_EVENTS:
            purchases.extend(_purchases(record.value))
        else:
            reports.append(_progress(record.value))
    failed = await store.set_progress_many(reports)
    done = await _finish(store, purchases, build)
    _raise_outage([*failed.values(), *done.values()])
    failures.without({**done, **failed})
    metrics.QUEUE_ENDED.labels("done").inc(sum(count for count in done.values() if isinstance(count, int)))


async def _finish(store: LineStore, purchases: Sequence[Purchase], build: Build) -> dict[int, int | Exception]:
    """By event, how many places are DONE now. A line that was lost is built first: it is told of purchases once."""
    done = await store.finish_many(purchases)
    unbuilt = {event_id for event_id, outcome in done.items() if isinstance(outcome, NotBuilt)}
    if unbuilt:
        await asyncio.gather(*map(build, unbuilt))
        done |= await store.finish_many([each for each in purchases if each.event_id in unbuilt])
    return done


def _raise_outage(outcomes: Iterable[object]) -> None:
    """What is away comes back, and everything is handled again; what is damaged concerns its own event."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and is_outage(outcome):
            raise outcome


def _purchases(value: bytes) -> Iterator[Purchase]:
    # Who was rejected, or did not pay in time, is still admitted and may try again until the admission ends.
    for event in pb.BookingEvents.FromString(value).events:
        if event.state == booking_pb.Booking.STATE_CONFIRMED:
            yield Purchase(event.event_id, event.user_id, event.time.ToDatetime(tzinfo=UTC))


def _progress(value: bytes) -> Progress:
    report = pb.SaleProgress.FromString(value)
    return Progress(
        event_id=report.event_id,
        time=report.time.ToDatetime(tzinfo=UTC),
        seats_total=report.seats_total,
        seats_left=report.seats_left,
        seats_sold=report.seats_sold,
    )
