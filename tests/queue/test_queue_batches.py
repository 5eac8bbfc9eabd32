"""Batches of calls: each item for its own account; and how far behind its reading queue is."""

from __future__ import annotations  # the async stub exists for type checkers only

from datetime import timedelta

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from prometheus_client import REGISTRY

from services.common import metrics
from services.common.errors import from_status
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import BOOKING_EVENTS, SALE_PROGRESS, TOPICS
from services.common.lifecycle import Lifecycle, running
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.calls import EVENT, refused
from tests.queue.neighbours import bearer
from tests.support import eventually


async def test_a_batch_answers_each_item_for_its_own_account(stub: rpc.QueueServiceAsyncStub) -> None:
    def join(event_id: int, user_id: int) -> pb.BatchJoinQueueItem:
        return pb.BatchJoinQueueItem(request=pb.JoinQueueRequest(event_id=event_id), user_id=user_id)

    batch = pb.BatchJoinQueueRequest(items=[join(EVENT, 5), join(EVENT + 1, 5), join(0, 5), join(EVENT, 6)])
    first, unknown, empty, second = (await stub.BatchJoinQueue(batch)).results
    assert [_reason_of(result) for result in (first, unknown, empty, second)] == [
        "",
        "EVENT_NOT_FOUND",
        "INVALID_ARGUMENT",
        "",
    ]
    # In the order of the items.
    assert first.response.place.join_time.ToDatetime() < second.response.place.join_time.ToDatetime()

    request = pb.GetPlaceRequest(event_id=EVENT)
    items = [pb.BatchGetPlaceItem(request=request, user_id=user_id) for user_id in (6, 9, 5)]
    sixth, nobody, fifth = (await stub.BatchGetPlace(pb.BatchGetPlaceRequest(items=items))).results
    assert _reason_of(nobody) == "PLACE_NOT_FOUND"
    joined = [result.response.place.join_time for result in (second, first)]
    assert [result.response.place.join_time for result in (sixth, fifth)] == joined


async def test_an_account_that_cannot_be_is_refused_alone(stub: rpc.QueueServiceAsyncStub) -> None:
    request = pb.JoinQueueRequest(event_id=EVENT)
    users = [5, 0, -1, 2**53, 2**62, 2**53 - 1]
    items = [pb.BatchJoinQueueItem(request=request, user_id=user_id) for user_id in users]
    results = (await stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=items))).results
    assert [_reason_of(result) for result in results] == ["", *["INVALID_ARGUMENT"] * 4, ""]
    assert results[-1].response.place.total_waiting == 2

    lanes = pb.Lanes(lanes=[pb.Lane(lane=0, name="general", weight=1), pb.Lane(lane=1, name="fans", weight=1)])
    operator = bearer(99, "operator")
    await stub.UpdateQueuePolicy(pb.UpdateQueuePolicyRequest(event_id=EVENT, lanes=lanes), metadata=operator)
    for user_id in users[1:-1]:
        passes = pb.IssueLanePassesRequest(event_id=EVENT, lane=1, user_ids=[5, user_id])
        assert await refused(stub.IssueLanePasses(passes, metadata=operator)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("number", [0, 257])
async def test_a_batch_has_bounds(stub: rpc.QueueServiceAsyncStub, number: int) -> None:
    item = pb.BatchGetPlaceItem(request=pb.GetPlaceRequest(event_id=EVENT), user_id=1)
    call = stub.BatchGetPlace(pb.BatchGetPlaceRequest(items=[item] * number))
    assert await refused(call) == "INVALID_ARGUMENT"


def _reason_of(result: pb.BatchJoinQueueResult | pb.BatchGetPlaceResult) -> str:
    return from_status(result.error)[0] if result.HasField("error") else ""


async def test_it_tells_how_far_behind_its_reading_is(settings: QueueSettings) -> None:
    async def start(lifecycle: Lifecycle) -> None:
        await wire(lifecycle, settings)

    def told() -> list[float | None]:
        labels = [{"group": "queue", "topic": topic} for topic in (BOOKING_EVENTS, SALE_PROGRESS)]
        return [REGISTRY.get_sample_value("boxoffice_eventlog_lag", each) for each in labels]

    async with open_event_log(settings.eventlog_url) as log:
        await log.create_topics(TOPICS)
    metrics.EVENTLOG_LAG.clear()
    async with running(start, 1.0):
        await eventually(lambda: told() == [0.0, 0.0], timedelta(seconds=20))
