"""From a record in the event log to the push provider, with whole notify processes and a provider that misbehaves."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.common import metrics
from services.common.eventlog import EventLog, open_event_log, replay
from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS, TOPICS, dead
from services.notify.domain import Device, Language, Platform
from services.notify.store import Devices
from tests.notify.conftest import Pushed, Replica
from tests.notify.facts_of import booked, called
from tests.notify.gate import Door, gate_to
from tests.support import eventually

NewDevice = Callable[..., Device]
SOON = timedelta(seconds=20)


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics(TOPICS)
        yield opened


async def _tell(log: EventLog, *facts: tuple[str, bytes]) -> None:
    async with log.writer() as writer:
        for topic, value in facts:
            await writer.append(topic, "42", value)


def _count(outcome: str, kind: str = "place_called") -> float:
    labels = {"channel": "sns", "kind": kind, "outcome": outcome}
    return REGISTRY.get_sample_value("boxoffice_notifications_total", labels) or 0.0


def _retries() -> float:
    return REGISTRY.get_sample_value("boxoffice_notification_retries_total", {"channel": "sns"}) or 0.0


async def _idle(redis: Redis) -> bool:
    """Whether nothing waits any more."""
    return not await redis.zcard("notify:{deliveries}:due") and not await redis.hlen("notify:{deliveries}:jobs")


async def test_everyone_is_told_once_in_their_language_however_often_the_fact_comes(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed
) -> None:
    phone, tablet = new_device(), replace(new_device(Platform.IOS, Language.EN))
    tablet = replace(tablet, user_id=phone.user_id)
    stranger = new_device()
    for device in (phone, tablet, stranger):
        await devices.register(device)
    mine = called("q1", phone.user_id)
    await _tell(log, (QUEUE_EVENTS, mine), (QUEUE_EVENTS, mine + mine))
    async with replica():
        await eventually(lambda: pushed(phone), SOON)
        await _tell(log, (QUEUE_EVENTS, mine), (BOOKING_EVENTS, booked("b1", phone.user_id)))
        await eventually(lambda: _has(pushed, tablet, 2), SOON)
        await eventually(lambda: _idle(redis), SOON)
    ko, en = await pushed(phone), await pushed(tablet)
    assert (len(ko), len(en), await pushed(stranger)) == (2, 2, [])
    korean = json.loads(ko[0]["GCM"])["fcmV1Message"]["message"]
    assert korean["data"]["cta"] == "지금 예매하기"
    assert korean["data"]["url"] == "https://boxoffice.example/?event=42"
    english = json.loads(en[0]["APNS"])
    assert english["cta"] == "Book now"
    assert english["aps"]["alert"]["title"] == "It is your turn"
    assert json.loads(en[1]["APNS"])["url"].endswith("?event=42&booking=2a-abcdef")


async def _has(pushed: Pushed, device: Device, count: int) -> bool:
    return len(await pushed(device)) >= count


async def test_after_an_outage_of_the_provider_everything_is_delivered_once(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    people = [new_device() for _ in range(6)]
    for device in people:
        await devices.register(device)
    async with gate_to(sns_url) as gate, replica(sns_endpoint_url=gate.url, push_attempts=10_000):
        gate.set(Door.SHUT)
        before = _retries()
        await _tell(log, *((QUEUE_EVENTS, called(f"q{device.user_id}", device.user_id)) for device in people))
        await eventually(lambda: _retries() > before + len(people), SOON)
        assert not any([await pushed(device) for device in people])
        gate.set(Door.OPEN)
        await eventually(lambda: _idle(redis), SOON)
    assert [len(await pushed(device)) for device in people] == [1] * len(people)


async def test_a_provider_that_does_not_answer_holds_up_no_events(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, sns_url: str
) -> None:
    device = new_device()
    await devices.register(device)
    async with gate_to(sns_url) as gate, replica(sns_endpoint_url=gate.url, push_concurrency=1):
        gate.set(Door.SILENT)
        await _tell(log, (QUEUE_EVENTS, called("q0", device.user_id)))
        await eventually(lambda: gate.connections, SOON)
        await _tell(log, *((QUEUE_EVENTS, called(f"q{number}", device.user_id)) for number in range(1, 30)))

        async def all_taken() -> bool:
            return not await log.lag("notify", QUEUE_EVENTS) and await redis.zcard("notify:{deliveries}:due") == 30

        await eventually(all_taken, SOON)  # one after the other, their pushes would need 90 s to time out
        gate.set(Door.SHUT)


async def test_what_is_given_up_goes_to_the_dead_letters_and_can_be_replayed(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    device, fine = new_device(), new_device()
    await devices.register(device)
    failed = _count("failed")
    async with gate_to(sns_url) as gate, replica(sns_endpoint_url=gate.url, push_attempts=3):
        gate.set(Door.SHUT)
        await _tell(log, (QUEUE_EVENTS, called("q1", device.user_id) + called("q2", fine.user_id)))
        await eventually(lambda: _count("failed") == failed + 1, SOON)
        assert await _idle(redis)
        gate.set(Door.OPEN)
        async with log.reader("look", [dead(QUEUE_EVENTS)]) as reader:
            [record] = await eventually(lambda: reader.read(10, timedelta(seconds=1)), SOON)
        assert device.token not in str(record.headers)
        assert await replay(log, QUEUE_EVENTS) == 1
        await eventually(lambda: pushed(device), SOON)
        await eventually(lambda: _idle(redis), SOON)
    assert len(await pushed(device)) == 1


async def test_replicas_share_the_work_and_nobody_is_told_twice(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    people = [new_device() for _ in range(40)]
    for device in people:
        await devices.register(device)
    async with gate_to(sns_url) as one, gate_to(sns_url) as other:
        one.delay = other.delay = 0.1  # too much for one: two calls for each person, four at a time, take 2 s
        async with replica(sns_endpoint_url=one.url), replica(sns_endpoint_url=other.url):
            await _tell(log, *((QUEUE_EVENTS, called(f"q{device.user_id}", device.user_id)) for device in people))
            await eventually(lambda: _has(pushed, people[-1], 1), SOON)
            await eventually(lambda: _idle(redis), SOON)
        assert one.connections
        assert other.connections
    assert [len(await pushed(device)) for device in people] == [1] * len(people)


async def test_a_replica_takes_over_what_another_left_behind(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    device = new_device()
    await devices.register(device)
    lease = {"push_lease": timedelta(milliseconds=200)}
    async with gate_to(sns_url) as gate:
        gate.set(Door.SILENT)
        async with replica(sns_endpoint_url=gate.url, **lease):
            await _tell(log, (QUEUE_EVENTS, called("q1", device.user_id)))
            await eventually(lambda: gate.connections, SOON)
            # The claim of the first, which still waits for its provider, runs out.
            async with replica():
                await eventually(lambda: pushed(device), SOON)
                await eventually(lambda: _idle(redis), SOON)
    assert len(await pushed(device)) == 1


async def test_a_disabled_device_is_forgotten_and_welcome_again(
    log: EventLog, replica: Replica, devices: Devices, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    device = new_device(Platform.WEB)
    await devices.register(device)
    async with replica():
        await _tell(log, (QUEUE_EVENTS, called("q1", device.user_id)))
        await eventually(lambda: pushed(device), SOON)
        endpoint = await devices.endpoint(device.token)
        assert endpoint is not None
        await asyncio.to_thread(_disable, sns_url, endpoint)
        gone = _count("gone")
        await _tell(log, (QUEUE_EVENTS, called("q2", device.user_id)))
        await eventually(lambda: _count("gone") == gone + 1, SOON)
        assert await devices.by_token(device.token) is None
        await devices.register(device)
        await _tell(log, (QUEUE_EVENTS, called("q3", device.user_id)))
        await eventually(lambda: _has(pushed, device, 2), SOON)
        assert await devices.endpoint(device.token) == endpoint


def _disable(sns_url: str, endpoint: str) -> None:
    with contextlib.closing(_sns(sns_url)) as client:
        client.set_endpoint_attributes(EndpointArn=endpoint, Attributes={"Enabled": "false"})


async def test_an_endpoint_that_was_deleted_is_made_anew(
    log: EventLog, replica: Replica, devices: Devices, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    device = new_device()
    await devices.register(device)
    async with replica():
        await _tell(log, (QUEUE_EVENTS, called("q1", device.user_id)))
        await eventually(lambda: pushed(device), SOON)
        endpoint = await devices.endpoint(device.token)
        assert endpoint is not None
        await asyncio.to_thread(_delete, sns_url, endpoint)
        await _tell(log, (QUEUE_EVENTS, called("q2", device.user_id)))
        await eventually(lambda: _has(pushed, device, 2), SOON)
        assert await devices.endpoint(device.token) not in {endpoint, None}


def _sns(sns_url: str) -> Any:
    return boto3.session.Session(region_name="ap-northeast-2").client(
        "sns", endpoint_url=sns_url, aws_access_key_id="stand-in", aws_secret_access_key="stand-in"
    )


def _delete(sns_url: str, endpoint: str) -> None:
    with contextlib.closing(_sns(sns_url)) as client:
        client.delete_endpoint(EndpointArn=endpoint)


async def test_it_tells_how_far_behind_its_reading_is(log: EventLog, replica: Replica) -> None:
    def told() -> list[float | None]:
        labels = [{"group": "notify", "topic": topic} for topic in (QUEUE_EVENTS, BOOKING_EVENTS)]
        return [REGISTRY.get_sample_value("boxoffice_eventlog_lag", each) for each in labels]

    assert await log.lag("notify", QUEUE_EVENTS) == 0
    metrics.EVENTLOG_LAG.clear()
    async with replica():
        await eventually(lambda: told() == [0.0, 0.0], SOON)


async def test_nothing_is_told_too_late_or_to_the_next_owner_of_a_phone(
    log: EventLog, replica: Replica, devices: Devices, redis: Redis, new_device: NewDevice, pushed: Pushed, sns_url: str
) -> None:
    late, sold = new_device(), new_device()
    for device in (late, sold):
        await devices.register(device)
    stale, gone = _count("stale"), _count("gone")
    async with gate_to(sns_url) as gate, replica(sns_endpoint_url=gate.url, push_attempts=10_000):
        gate.set(Door.SHUT)
        before = _retries()
        closed_window = called("q1", late.user_id, claim_within=timedelta(seconds=-1))
        await _tell(log, (QUEUE_EVENTS, closed_window), (QUEUE_EVENTS, called("q2", sold.user_id)))
        await eventually(lambda: _retries() > before, SOON)
        await devices.register(replace(sold, user_id=new_device().user_id))
        gate.set(Door.OPEN)
        await eventually(lambda: _idle(redis), SOON)
    assert (_count("stale"), _count("gone")) == (stale + 1, gone + 1)
    assert await pushed(late) == await pushed(sold) == []


async def test_a_record_that_cannot_be_read_holds_up_no_other(
    log: EventLog, replica: Replica, devices: Devices, new_device: NewDevice, pushed: Pushed
) -> None:
    device = new_device()
    await devices.register(device)
    async with replica():
        await _tell(log, (QUEUE_EVENTS, b"\xff\xff\xff"), (QUEUE_EVENTS, called("q1", device.user_id)))
        await eventually(lambda: pushed(device), SOON)
        async with log.reader("look", [dead(QUEUE_EVENTS)]) as reader:
            [record] = await eventually(lambda: reader.read(10, timedelta(seconds=1)), SOON)
    assert record.value == b"\xff\xff\xff"
