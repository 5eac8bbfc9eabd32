"""Devices and people that no other test uses: the stand-in for SNS is shared by all of them."""

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from urllib.request import urlopen

import pytest
from redis.asyncio import Redis

from services.common.lifecycle import Lifecycle, running
from services.common.redis import open_redis
from services.notify.domain import Device, DeviceToken, Language, Platform, UserId
from services.notify.settings import NotifySettings
from services.notify.store import Deliveries, Devices
from services.notify.wiring import wire

_numbers = itertools.count(1)

Pushed = Callable[[Device], Awaitable[list[dict[str, Any]]]]
Replica = Callable[..., AbstractAsyncContextManager[Lifecycle]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
def devices(redis: Redis) -> Devices:
    return Devices(redis)


@pytest.fixture
def deliveries(redis: Redis) -> Deliveries:
    return Deliveries(redis, remember=timedelta(hours=24), lease=timedelta(seconds=20))


@pytest.fixture
def new_device() -> Callable[..., Device]:
    def make(platform: Platform = Platform.ANDROID, language: Language = Language.KO) -> Device:
        return Device(DeviceToken(secrets.token_hex(16)), UserId(next(_numbers)), platform, language)

    return make


@pytest.fixture
def pushed(sns_url: str) -> Pushed:
    """What the provider has sent to a device, oldest first."""

    async def read(device: Device) -> list[dict[str, Any]]:
        endpoints = await asyncio.to_thread(_endpoints, sns_url)
        found = [endpoint["messages"] for endpoint in endpoints if endpoint["token"] == device.token]
        return [json.loads(message) for messages in found for message in messages.values()]

    return read


def _endpoints(sns_url: str) -> list[dict[str, Any]]:
    with urlopen(f"{sns_url}/moto-api/data.json") as answer:
        endpoints: list[dict[str, Any]] = json.load(answer).get("sns", {}).get("PlatformEndpoint", [])
    return endpoints


@pytest.fixture
def replica(redis_url: str, sns_url: str) -> Replica:
    """Starts one more notify process inside of the test's own, with everything that a process has."""

    def start(**changes: Any) -> AbstractAsyncContextManager[Lifecycle]:
        settings = NotifySettings(
            **{
                "redis_url": redis_url,
                "eventlog_url": redis_url,
                "auth_target": "127.0.0.1:9",
                "sns_endpoint_url": sns_url,
                "public_url": "https://boxoffice.example",
                "push_concurrency": 4,
                "push_first_pause": timedelta(milliseconds=20),
                "push_longest_pause": timedelta(milliseconds=100),
                "drain_seconds": 0.1,
                **changes,
            }
        )

        async def start_one(lifecycle: Lifecycle) -> None:
            await wire(lifecycle, settings)

        return running(start_one, 0.1)

    return start
