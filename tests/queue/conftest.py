"""Redis for the line, also as another process has it, the nodes that vote on leases, and a whole queue process."""

from __future__ import annotations  # the async stub exists for type checkers only

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import grpc
import pytest
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from pydantic import SecretStr
from redis.asyncio import Redis

from deploy.local.stack import Stack, session_name
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import TOPICS
from services.common.lifecycle import Lifecycle, running
from services.common.redis import open_redis
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.lease_nodes import SPECS, LeaseNodes
from tests.queue.neighbours import ADMISSION_KEYS, DRAW_SECRET, PLACE_KEYS, RECEIPT_KEYS, Neighbours, neighbours


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def other_redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def running_nodes() -> Iterator[LeaseNodes]:
    stack = Stack(session_name("test-lease"), specs=SPECS)
    try:
        stack.up()
        yield LeaseNodes(stack)
    finally:
        stack.remove()


@pytest.fixture
async def nodes(running_nodes: LeaseNodes) -> AsyncIterator[LeaseNodes]:
    """Three nodes, empty and running, whatever a test before has done to them."""
    yield running_nodes
    await running_nodes.mend()


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        yield servicer


@pytest.fixture
def settings(redis_url: str, around: Neighbours) -> QueueSettings:
    return QueueSettings(
        redis_url=redis_url,
        eventlog_url=redis_url,
        inventory_target=around.target,
        auth_target=around.target,
        admission_keys=SecretStr(ADMISSION_KEYS),
        place_keys=SecretStr(PLACE_KEYS),
        draw_secret=SecretStr(DRAW_SECRET),
        receipt_keys=SecretStr(RECEIPT_KEYS),
        queue_inside_cap=1,
        drain_seconds=1,
        # Shorter than any that can be set: no sale here is sold out.
    ).model_copy(update={"queue_restore_grace": timedelta(seconds=1)})


@pytest.fixture
async def stub(settings: QueueSettings) -> AsyncIterator[rpc.QueueServiceAsyncStub]:
    ports: list[int] = []
    async with open_event_log(settings.eventlog_url) as log:
        await log.create_topics(TOPICS)

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield rpc.QueueServiceStub(channel)
