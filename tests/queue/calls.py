"""Calls of QueueService as tests make them, by account."""

from __future__ import annotations  # the async stub exists for type checkers only

from typing import Any

import grpc
import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc

from services.common.errors import from_rpc_error
from tests.queue.neighbours import bearer
from tests.support import eventually

EVENT = 7


async def join(stub: rpc.QueueServiceAsyncStub, user_id: int, signed_place: str = "") -> pb.JoinQueueResponse:
    request = pb.JoinQueueRequest(event_id=EVENT, signed_place=signed_place)
    return await stub.JoinQueue(request, metadata=bearer(user_id))


async def place_of(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.Place:
    answer = await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(user_id))
    return answer.place


async def when_called(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.Place:
    async def ready() -> pb.Place | None:
        place = await place_of(stub, user_id)
        return place if place.state == pb.Place.STATE_READY else None

    place = await eventually(ready)
    assert place
    return place


async def is_told(stub: rpc.QueueServiceAsyncStub, user_id: int, **expected: Any) -> bool:
    place = await place_of(stub, user_id)
    return all(getattr(place, name) == value for name, value in expected.items())


async def claim(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.ClaimPlaceResponse:
    return await stub.ClaimPlace(pb.ClaimPlaceRequest(event_id=EVENT), metadata=bearer(user_id))


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)[0]
