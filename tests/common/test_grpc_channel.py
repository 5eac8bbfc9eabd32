"""What a channel carries on, and what it repeats."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_grpc
from boxoffice.queue.v1 import queue_service_pb2 as queue_pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as queue_grpc

from services.common import logs, telemetry
from services.common.caller import Call, call_var
from services.common.grpc_channel import connect
from tests.common.rpc import ByName, Shop, bearer, open_shop, reason_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop(ByName()) as shop:
        yield shop


@pytest.fixture(autouse=True)
def _nobody() -> Iterator[None]:
    """Tests that play a handler leave no traces of its call behind."""
    tokens = call_var.set(None), logs.request_id.set("")
    yield
    call_var.reset(tokens[0])
    logs.request_id.reset(tokens[1])


async def test_a_channel_carries_the_call_on(shop: Shop) -> None:
    call_var.set(Call("Bearer buyer", asyncio.get_running_loop().time() + 3))
    logs.request_id.set("r-9")
    async with connect(f"127.0.0.1:{shop.port}") as channel:
        stub = queue_grpc.QueueServiceStub(channel)
        with telemetry.span("test", traceparent=TRACEPARENT):
            await stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), timeout=60)
            watched = [answer async for answer in stub.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1))]
    (seen,) = shop.line.seen
    assert (seen["traceparent"], seen["request_id"]) == (TRACEPARENT, "r-9")
    assert seen["caller"].user_id == 7
    assert 0 < seen["remaining"] <= 3
    assert len(watched) == 2


async def test_outside_of_a_call_a_channel_carries_nothing(shop: Shop) -> None:
    async with connect(f"127.0.0.1:{shop.port}") as channel:
        stub = queue_grpc.QueueServiceStub(channel)
        assert (await reason_of(stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1))))[0] == "UNAUTHENTICATED"
        await stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=bearer("buyer"))


async def test_a_call_whose_time_is_over_does_not_go_out(shop: Shop) -> None:
    call_var.set(Call("Bearer buyer", asyncio.get_running_loop().time() - 1))
    async with connect(f"127.0.0.1:{shop.port}") as channel:
        stub = queue_grpc.QueueServiceStub(channel)
        call = stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), timeout=60)
        assert (await reason_of(call))[0] == "DEADLINE_EXCEEDED"
    assert shop.line.seen == []


class Flaky(auth_grpc.AuthServiceServicer):
    """Not there at the first call of each method."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def _answer(self, name: str, context: Any, answer: Any) -> Any:
        self.calls.append(name)
        if self.calls.count(name) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return answer

    async def GetJwks(self, request: Any, context: Any) -> Any:
        return await self._answer("GetJwks", context, auth_pb.GetJwksResponse())

    async def Refresh(self, request: Any, context: Any) -> Any:
        return await self._answer("Refresh", context, auth_pb.RefreshResponse())


async def test_what_may_be_repeated_is_retried_and_nothing_else() -> None:
    flaky = Flaky()  # type: ignore[abstract] # the same
    server = grpc.aio.server()
    auth_grpc.add_AuthServiceServicer_to_server(flaky, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connect(f"127.0.0.1:{port}") as channel:
            stub = auth_grpc.AuthServiceStub(channel)
            await stub.GetJwks(auth_pb.GetJwksRequest())
            # A refresh token used twice ends the session: a retry would sign the user out.
            reason, _ = await reason_of(stub.Refresh(auth_pb.RefreshRequest(refresh_token="x")))
    finally:
        await server.stop(0)
    assert reason == "UNAVAILABLE"
    assert flaky.calls == ["GetJwks", "GetJwks", "Refresh"]
