"""The push loop: what goes wrong beside a push does not repeat it."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.common.cancellation import cancel
from services.notify.domain import Delivery, DeviceToken
from services.notify.store import Deliveries
from services.notify.worker import PushLoop
from tests.support import eventually

FACT = Delivery("fact/device", "queue.events", DeviceToken("token"), b"", "")


class _Courier:
    """Pushes for as long as a test wants."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self.taken = asyncio.Event()
        self.history: list[str] = []

    async def deliver(self, delivery: Delivery) -> None:
        self.history.append("begun")
        try:
            await self.taken.wait()
            await self._deliveries.finish(delivery)
        except asyncio.CancelledError:
            self.history.append("cut off")
            raise
        self.history.append("finished")


class _Unsteady(Deliveries):
    """Claims in two steps, of which a test can hold up the second, or fails to."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, remember=timedelta(hours=1), lease=timedelta(seconds=20))
        self.error: Exception | None = None
        self.failures = 0
        self.claimed = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def claim(self, most: int) -> tuple[int, list[Delivery]]:
        if self.error:
            self.failures += 1
            raise self.error
        found = await super().claim(most)
        if found[1]:
            self.claimed.set()
        await self.answer.wait()
        return found


def _loop(deliveries: Deliveries, courier: Any) -> PushLoop:
    return PushLoop(deliveries, courier, concurrency=4)


@pytest.mark.parametrize("error", [RedisConnectionError("away"), OSError("away")])
async def test_a_claim_that_fails_cuts_off_no_push(
    redis: Redis, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries = _Unsteady(redis)
    courier = _Courier(deliveries)
    await deliveries.enqueue([FACT])
    loop = _loop(deliveries, courier)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: courier.history)

    deliveries.error = error
    with caplog.at_level(logging.WARNING):
        for failures in (1, 2, 3):
            loop.nudge()
            await eventually(lambda failures=failures: deliveries.failures >= failures)  # type: ignore[misc] # bound now
    deliveries.error = None
    courier.taken.set()
    await eventually(lambda: "finished" in courier.history)
    await deliveries.enqueue([Delivery("fact2/device", "queue.events", DeviceToken("token"), b"", "")])
    await eventually(lambda: courier.history.count("finished") == 2)

    assert courier.history == ["begun", "finished"] * 2
    assert len(caplog.records) == 1
    await cancel([running])


async def test_a_drain_waits_for_what_is_being_claimed(redis: Redis) -> None:
    deliveries = _Unsteady(redis)
    courier = _Courier(deliveries)
    deliveries.answer.clear()
    await deliveries.enqueue([FACT])
    loop = _loop(deliveries, courier)
    running = asyncio.create_task(loop.run())
    await asyncio.wait_for(deliveries.claimed.wait(), 10)

    draining = asyncio.create_task(loop.drain(10))
    await asyncio.sleep(0)
    assert not draining.done()
    deliveries.answer.set()
    await eventually(lambda: courier.history)
    assert not draining.done()
    courier.taken.set()
    await asyncio.wait_for(draining, 10)
    await cancel([running])

    assert courier.history == ["begun", "finished"]


async def test_a_drain_that_takes_too_long_ends_and_what_is_cut_off_is_pushed_again(redis: Redis) -> None:
    deliveries = _Unsteady(redis)
    courier = _Courier(deliveries)
    await deliveries.enqueue([FACT])
    loop = _loop(deliveries, courier)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: courier.history)

    await asyncio.wait_for(loop.drain(0.05), 10)
    await cancel([running])
    await eventually(lambda: courier.history == ["begun", "cut off"])

    assert await redis.zcard("notify:{deliveries}:due") == 1
