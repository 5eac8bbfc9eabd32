"""Background work of notify: reading the event log, and pushing what is due."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from redis.exceptions import RedisError

from services.common import metrics
from services.common.eventlog.consumer import consume
from services.common.eventlog.port import EventLog, Record
from services.common.eventlog.topics import TOPICS as ALL_TOPICS
from services.common.eventlog.topics import dead
from services.notify.dispatch import Courier, Intake
from services.notify.domain import Delivery
from services.notify.facts import TOPICS
from services.notify.store import Deliveries

GROUP = "notify"
IDLE_PAUSE = timedelta(milliseconds=500)  # how late a retry, or a delivery of a replica that died, can be noticed

_log = logging.getLogger(__name__)


class PushLoop:
    """Claims what is due and keeps at most `concurrency` pushes under way, whoever queued them."""

    def __init__(self, deliveries: Deliveries, courier: Courier, concurrency: int) -> None:
        self._deliveries = deliveries
        self._courier = courier
        self._concurrency = concurrency
        self._under_way: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        # Held from a claim until its pushes have begun, so that a drain waits for what was claimed while it began.
        self._claiming = asyncio.Lock()
        self._draining = False
        self._failing = False

    def nudge(self) -> None:
        """Something is due now: do not wait for the next look."""
        self._wake.set()

    async def run(self) -> None:
        """Runs until it is cancelled. What is under way then is pushed again by whoever claims it next."""
        try:
            while True:
                self._wake.clear()
                if not await self._start_due():
                    await self._pause()
        except asyncio.CancelledError:  # no other end: a push that is cut off may have been taken, and is repeated
            for task in self._under_way:
                task.cancel()
            raise

    async def drain(self, seconds: float) -> None:
        """Claims nothing more and lets the pushes under way end, so that no one is told twice at each deployment."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async with self._claiming:
                    pass
                if self._under_way:
                    await asyncio.wait(self._under_way)

    async def _start_due(self) -> bool:
        async with self._claiming:
            free = self._concurrency - len(self._under_way)
            if not free or self._draining:
                return False
            claimed = await self._claim(free)
            for delivery in claimed:
                task = asyncio.create_task(self._deliver(delivery))
                self._under_way.add(task)
                task.add_done_callback(self._finished)
        return bool(claimed)

    async def _claim(self, most: int) -> list[Delivery]:
        """Nothing while Redis is away, which is no news for those pushes that are under way."""
        try:
            pending, claimed = await self._deliveries.claim(most)
        except (RedisError, OSError) as error:
            if not self._failing:
                _log.warning(
                    "nothing can be claimed, pushing pauses", extra={"fields": {"error": type(error).__name__}}
                )
            self._failing = True
            return []
        self._failing = False
        metrics.NOTIFICATIONS_PENDING.set(pending)
        return claimed

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._courier.deliver(delivery)
        except Exception:  # noqa: BLE001 - one delivery must not stop the others; its claim runs out and it is repeated
            _log.exception("a delivery was interrupted", extra={"fields": {"delivery": delivery.delivery_id}})

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self.nudge()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(IDLE_PAUSE.total_seconds()):
                await self._wake.wait()
        except TimeoutError:
            pass


async def read_events(log: EventLog, intake: Intake, push_loop: PushLoop) -> None:
    """Turns what happened into deliveries, until it is cancelled."""

    async def take(records: list[Record]) -> None:
        if await intake.take(records):
            push_loop.nudge()

    await log.create_topics({name: ALL_TOPICS[name] for topic in TOPICS for name in (topic, dead(topic))})
    await consume(log, GROUP, TOPICS, take)
