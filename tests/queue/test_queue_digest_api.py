"""WatchDigest over a real gRPC server, beside a line that lives."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

import grpc
import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from pydantic import SecretStr

from services.common.errors import from_rpc_error
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import TOPICS
from services.common.lifecycle import Lifecycle, running
from services.common.place_in_digest import ForecastTable, LaneScores, Told, position_of, told_at
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.neighbours import ADMISSION_KEYS, DRAW_SECRET, PLACE_KEYS, RECEIPT_KEYS, bearer, neighbours

EVENT = 7


@pytest.fixture
async def stub(redis_url: str) -> AsyncIterator[rpc.QueueServiceAsyncStub]:
    ports: list[int] = []
    async with neighbours() as around, open_event_log(redis_url) as log:
        await log.create_topics(TOPICS)
        settings = QueueSettings(
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
        )

        async def start(lifecycle: Lifecycle) -> None:
            ports.append(await wire(lifecycle, settings))

        async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            yield rpc.QueueServiceStub(channel)


async def _join(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.Place:
    return (await stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT), metadata=bearer(user_id))).place


async def _until(stream: AsyncIterable[pb.WatchDigestResponse], **wanted: int) -> pb.WatchDigestResponse:
    """The first digest whose only lane is like this."""
    async with asyncio.timeout(10):
        async for digest in stream:
            if digest.lanes and all(getattr(digest.lanes[0], name) == value for name, value in wanted.items()):
                return digest
    raise AssertionError("the stream ended")


def _scores(lane: pb.LaneDigest) -> LaneScores:
    return LaneScores(lane.waiting, list(lane.front), list(lane.samples), list(lane.sample_positions))


def _table(lane: pb.LaneDigest) -> ForecastTable:
    return ForecastTable(
        [each.position for each in lane.forecast],
        [
            Told(each.eta_p10_seconds, each.eta_p50_seconds, each.eta_p90_seconds, None, each.poll_after_ms)
            for each in lane.forecast
        ],
    )


async def test_a_digest_tells_where_those_are_who_wait(stub: rpc.QueueServiceAsyncStub) -> None:
    places = [await _join(stub, user_id) for user_id in (1, 2, 3, 4)]
    stream = stub.WatchDigest(pb.WatchDigestRequest(event_id=EVENT))

    digest = await _until(stream, waiting=3)

    (lane,) = digest.lanes
    assert (lane.name, lane.watermark, digest.total_waiting) == ("general", places[0].score, 3)
    assert (digest.sale_state, digest.incarnation > 0) == (pb.SALE_STATE_OPEN, True)
    assert [position_of(place.score, _scores(lane)) for place in places[1:]] == [1, 2, 3]
    told = told_at(3, _table(lane))
    asked = (await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(4))).place
    assert asked.position == 3
    assert asked.eta_p50_seconds == pytest.approx(told.eta_p50_seconds, rel=0.1, abs=2)
    assert asked.eta_p90_seconds == pytest.approx(told.eta_p90_seconds, rel=0.1, abs=2)
    assert 0.79 * told.poll_after_ms <= asked.poll_after_ms <= 1.21 * told.poll_after_ms

    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(3))
    assert 3 in (await _until(stream, waiting=2)).changed_user_ids


async def test_an_unknown_event_is_not_found(stub: rpc.QueueServiceAsyncStub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        await anext(aiter(stub.WatchDigest(pb.WatchDigestRequest(event_id=404))))
    assert from_rpc_error(failure.value)[0] == "EVENT_NOT_FOUND"
