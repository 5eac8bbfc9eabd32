"""From facts to pushes: which devices a fact goes to, and what becomes of each delivery."""

import logging
import random
from collections.abc import Sequence

from services.common import metrics
from services.common.clock import Clock
from services.common.eventlog.port import EventLogWriter, Record
from services.common.eventlog.topics import dead
from services.common.telemetry import span
from services.notify.channels import Channel
from services.notify.domain import (
    Delivery,
    DeviceGone,
    Fact,
    ProviderFailure,
    RetrySchedule,
    delivery_of,
    token_digest,
)
from services.notify.facts import facts_in
from services.notify.messages import Messages
from services.notify.store import Deliveries, Devices

_log = logging.getLogger(__name__)


class Intake:
    """Queues a delivery for each device of everyone whom a batch of records concerns.

    Nothing is pushed here, so a slow provider never holds up the event log. When this returns, every delivery is in
    Redis and the records may be committed; when it is repeated, only what is missing is added.
    """

    def __init__(self, devices: Devices, deliveries: Deliveries) -> None:
        self._devices = devices
        self._deliveries = deliveries

    async def take(self, records: Sequence[Record]) -> int:
        """Answers how many deliveries are new. Raises DecodeError for a record that is not one of its topic."""
        found = [
            (fact, record.topic, source)
            for record in records
            for fact, source in facts_in(record.topic, record.value, record.headers.get("traceparent", ""))
        ]
        if not found:
            return 0
        tokens = await self._devices.of_users(fact.user_id for fact, _, _ in found)
        deliveries = [
            delivery_of(fact, topic, source, token) for fact, topic, source in found for token in tokens[fact.user_id]
        ]
        return await self._deliveries.enqueue(deliveries) if deliveries else 0


class Courier:
    """Carries one claimed delivery to its end: sent, gone, stale or failed; or postpones it."""

    def __init__(
        self,
        *,
        devices: Devices,
        deliveries: Deliveries,
        channel: Channel,
        messages: Messages,
        schedule: RetrySchedule,
        dead_letters: EventLogWriter,
        clock: Clock,
    ) -> None:
        self._devices = devices
        self._deliveries = deliveries
        self._channel = channel
        self._messages = messages
        self._schedule = schedule
        self._dead_letters = dead_letters
        self._clock = clock

    async def deliver(self, delivery: Delivery) -> None:
        """One attempt. When it raises, the claim runs out and another attempt follows: at least once, never none."""
        fact, _ = next(facts_in(delivery.topic, delivery.source, delivery.traceparent))
        with span("notify.deliver", fact.traceparent or None, channel=self._channel.name, attempt=delivery.attempt):
            try:
                outcome = await self._attempt(delivery, fact)
            except ProviderFailure as failure:
                await self._after_failure(delivery, fact, failure)
                return
        await self._deliveries.finish(delivery)
        self._count(fact, outcome)

    async def _attempt(self, delivery: Delivery, fact: Fact) -> str:
        if self._clock.now() >= fact.stale_time:
            return "stale"
        device = await self._devices.by_token(delivery.token)
        if device is None or device.user_id != fact.user_id:  # forgotten, or in another person's hands by now
            return "gone"
        try:
            await self._channel.send(device, self._messages.write(fact, device.language))
        except DeviceGone:
            await self._devices.unregister(device.token, device.user_id)
            return "gone"
        elapsed = (self._clock.now() - fact.time).total_seconds()
        metrics.NOTIFICATION_DURATION.labels(self._channel.name, fact.kind).observe(max(0.0, elapsed))
        return "sent"

    async def _after_failure(self, delivery: Delivery, fact: Fact, failure: ProviderFailure) -> None:
        if not self._schedule.is_last(delivery.attempt):
            chance = random.random()  # noqa: S311 - spreads load, guards nothing
            await self._deliveries.postpone(delivery, self._schedule.pause(delivery.attempt, chance))
            metrics.NOTIFICATION_RETRIES.labels(self._channel.name).inc()
            return
        await self._bury(delivery, fact, failure)
        self._count(fact, "failed")

    async def _bury(self, delivery: Delivery, fact: Fact, failure: ProviderFailure) -> None:
        """To the dead-letter topic first, out of the queue second: a crash between the two repeats, never loses."""
        fields = {"device": token_digest(delivery.token), "fact": fact.fact_id, "cause": str(failure)}
        headers = {"traceparent": fact.traceparent, "delivery": delivery.delivery_id, "cause": str(failure)}
        await self._dead_letters.append(dead(delivery.topic), str(fact.event_id), delivery.source, headers)
        await self._deliveries.finish(delivery, repeatable=True)
        _log.error("a message was given up", extra={"fields": fields})

    def _count(self, fact: Fact, outcome: str) -> None:
        metrics.NOTIFICATIONS.labels(self._channel.name, fact.kind, outcome).inc()
