"""What moves a running line: the shop's health, an operator's policy, the end of the seats, the end of a process."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
import json
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from boxoffice.inventory.v1 import booking_events_pb2
from boxoffice.inventory.v1 import shop_service_pb2 as shop_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from prometheus_client import REGISTRY
from pydantic import SecretStr

from services.common.errors import from_rpc_error
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import SALE_PROGRESS, TOPICS
from services.common.lifecycle import Lifecycle, running
from services.queue.admission import pace
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.neighbours import (
    ADMISSION_KEYS,
    DRAW_SECRET,
    PLACE_KEYS,
    RECEIPT_KEYS,
    Neighbours,
    bearer,
    neighbours,
    stamp,
)
from tests.support import eventually

ROOT = Path(__file__).parents[2]
EVENT = 7
RATE = 100.0
SLOW = shop_pb.GetShopHealthResponse(event_log_lag=9_999, payment_backlog=0)
OPERATOR = bearer(99, "operator")


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        yield servicer


@pytest.fixture
async def settings(redis_url: str, around: Neighbours) -> QueueSettings:
    async with open_event_log(redis_url) as log:
        await log.create_topics(TOPICS)
    return QueueSettings(
        redis_url=redis_url,
        eventlog_url=redis_url,
        inventory_target=around.target,
        auth_target=around.target,
        admission_keys=SecretStr(ADMISSION_KEYS),
        place_keys=SecretStr(PLACE_KEYS),
        draw_secret=SecretStr(DRAW_SECRET),
        receipt_keys=SecretStr(RECEIPT_KEYS),
        queue_rate_per_second=RATE,
        queue_inside_cap=1_000_000,
        queue_joins_per_address="0",
        drain_seconds=1,
    )


class Line:
    """A line as its operator and its people use it, through one process."""

    def __init__(self, stub: rpc.QueueServiceAsyncStub) -> None:
        self.stub = stub

    async def join(self, *users: int) -> None:
        request = pb.JoinQueueRequest(event_id=EVENT)
        for start in range(0, len(users), 256):
            items = [pb.BatchJoinQueueItem(request=request, user_id=user) for user in users[start : start + 256]]
            answers = await self.stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=items))
            assert [each.error.message for each in answers.results if each.HasField("error")] == []

    async def status(self) -> pb.QueueStatus:
        answer = await self.stub.GetQueuePolicy(pb.GetQueuePolicyRequest(event_id=EVENT), metadata=OPERATOR)
        return answer.status

    async def run_by(self, **rules: Any) -> None:
        await self.stub.UpdateQueuePolicy(pb.UpdateQueuePolicyRequest(event_id=EVENT, **rules), metadata=OPERATOR)

    async def ready(self) -> int:
        return (await self.status()).ready

    async def calls(self, seconds: float) -> float:
        """People called per second, over a while."""
        clock = asyncio.get_running_loop().time
        before, began = await self.ready(), clock()
        await asyncio.sleep(seconds)
        return (await self.ready() - before) / (clock() - began)

    async def until(self, holds: Callable[[pb.QueueStatus], bool], within: float = 10.0) -> pb.QueueStatus:
        async def look() -> pb.QueueStatus | None:
            status = await self.status()
            return status if holds(status) else None

        found = await eventually(look, timedelta(seconds=within))
        assert found is not None
        return found


@asynccontextmanager
async def process_of(settings: QueueSettings) -> AsyncIterator[Line]:
    ports: list[int] = []

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield Line(rpc.QueueServiceStub(channel))


@pytest.fixture
async def line(settings: QueueSettings) -> AsyncIterator[Line]:
    async with process_of(settings) as opened:
        yield opened


async def test_bad_health_slows_the_calls_and_good_health_brings_them_back(
    line: Line, around: Neighbours, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "_INCREASE", 0.3)  # recovery takes longer than a test should
    await line.join(*range(1, 1_501))
    await line.until(lambda status: status.ready > RATE)  # the bucket of the first second is empty
    assert await line.calls(1.0) == pytest.approx(RATE, rel=0.35)

    around.health = SLOW
    with caplog.at_level(logging.WARNING):
        slowed = await line.until(lambda status: status.allowed_rate_per_second < 0.35 * RATE)
    assert list(slowed.slowed_by) == ["event_log_lag"]
    assert await line.calls(1.0) < 0.5 * RATE
    assert REGISTRY.get_sample_value("boxoffice_queue_slowed", {"reason": "event_log_lag"}) == 1
    assert (REGISTRY.get_sample_value("boxoffice_queue_slowdown") or 0) > 0.6
    assert 0 < (REGISTRY.get_sample_value("boxoffice_queue_allowed_rate") or 0) < 0.5 * RATE
    assert [record.message for record in caplog.records if "slows the lines" in record.message]

    around.health = shop_pb.GetShopHealthResponse()
    recovered = await line.until(lambda status: status.allowed_rate_per_second == RATE)
    assert list(recovered.slowed_by) == []
    assert await line.calls(1.0) > 0.6 * RATE


async def test_a_shop_that_does_not_answer_slows_too(line: Line, around: Neighbours) -> None:
    await line.join(1)
    around.away = True
    slowed = await line.until(lambda status: bool(status.slowed_by))
    assert list(slowed.slowed_by) == ["no_answer"]
    around.away = False
    await line.until(lambda status: not status.slowed_by)


async def test_an_operator_holds_caps_paces_and_drains_a_line_while_it_runs(line: Line) -> None:
    await line.join(*range(1, 401))
    await line.until(lambda status: status.ready > 0)
    await line.run_by(mode=pb.QueuePolicy.MODE_HOLD)
    held = await line.until(lambda status: status.allowed_rate_per_second == 0)
    assert await line.calls(0.5) == 0

    await line.run_by(mode=pb.QueuePolicy.MODE_OPEN, inside_cap=held.ready + 7, rate_per_second=1_000.0)
    capped = await line.until(lambda status: status.ready == held.ready + 7)
    assert await line.calls(0.5) == 0
    assert sum(capped.waiting) == 400 - capped.ready
    assert (len(capped.waiting), capped.admitted, capped.entrants) == (4, 0, 0)

    await line.run_by(inside_cap=1_000_000, rate_per_second=10.0)
    await line.until(lambda status: status.allowed_rate_per_second == 10.0)
    await line.calls(0.3)
    assert await line.calls(1.0) <= 21

    await line.run_by(mode=pb.QueuePolicy.MODE_DRAIN, rate_per_second=1_000.0)
    assert await refusal(line.stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT), metadata=bearer(999))) == (
        "SALE_CLOSED"
    )
    await line.until(lambda status: status.ready == 400)


async def refusal(call: Awaitable[Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)[0]


async def test_sell_out_ends_the_calls_and_everyone_who_watches_hears_within_two_seconds(
    line: Line, settings: QueueSettings
) -> None:
    people = range(1, 41)
    await line.run_by(mode=pb.QueuePolicy.MODE_HOLD)
    await line.join(*people)
    streams = [line.stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(user)) for user in people]
    watchers = [aiter(stream) for stream in streams]
    assert len(await asyncio.gather(*map(anext, watchers))) == 40
    async with open_event_log(settings.eventlog_url) as log, log.writer() as writer:
        report = booking_events_pb2.SaleProgress(
            event_id=EVENT, seats_total=3, seats_left=0, seats_sold=3, time=stamp(datetime.now(UTC))
        )
        await writer.append(SALE_PROGRESS, str(EVENT), report.SerializeToString())
    async with asyncio.timeout(2):
        await asyncio.gather(*map(_until_sold_out, watchers))

    await line.run_by(mode=pb.QueuePolicy.MODE_OPEN)
    assert await line.calls(0.6) == 0
    assert sum((await line.status()).waiting) == 40


async def _until_sold_out(watcher: AsyncIterator[pb.WatchPlaceResponse]) -> None:
    async for answer in watcher:
        if answer.place.sale_state == pb.SALE_STATE_SOLD_OUT:
            return
    pytest.fail("the stream has ended without the news")


async def test_a_process_that_drains_hands_its_lines_over_at_once(settings: QueueSettings) -> None:
    async with AsyncExitStack() as life:
        first = await life.enter_async_context(process_of(settings))
        await first.join(1)
        before = await first.until(lambda status: status.fence > 0 and status.ready == 1)
        async with process_of(settings) as other:
            await asyncio.sleep(0.5)
            await life.aclose()
            await other.join(2)
            # Well before the lease would have ended by itself.
            after = await other.until(lambda status: status.ready == 2, within=2.5)
            assert after.fence > before.fence


async def test_a_killed_process_is_replaced_within_its_lease(settings: QueueSettings) -> None:
    process, port = await _start_apart(settings)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            first = Line(rpc.QueueServiceStub(channel))
            await first.join(1)
            before = await first.until(lambda status: status.fence > 0 and status.ready == 1)
        async with process_of(settings) as other:
            await asyncio.sleep(0.5)
            process.kill()
            await other.join(2)
            after = await other.until(lambda status: status.ready == 2, within=5.0)
            assert after.fence > before.fence
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _start_apart(settings: QueueSettings) -> tuple[asyncio.subprocess.Process, int]:
    """The same service in a process of its own, that can be killed."""
    environment = {"PYTHONPATH": str(ROOT / "generated"), "PATH": ""}
    for name, value in settings.model_dump(exclude_unset=True).items():
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        environment[f"BOXOFFICE_{name.upper()}"] = str(plain)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.queue", cwd=ROOT, env=environment, stdout=PIPE, stderr=DEVNULL
    )
    assert process.stdout
    async with asyncio.timeout(30):
        while b'"started"' not in (line := await process.stdout.readline()):
            assert line
    return process, int(json.loads(line)["grpc_port"])
