"""A real server on loopback with servicers that obey the tests, and what is asked of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_grpc
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from boxoffice.inventory.v1 import booking_service_pb2_grpc as booking_grpc
from boxoffice.queue.v1 import queue_service_pb2 as queue_pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as queue_grpc

from services.common import errors, logs, telemetry
from services.common.caller import Caller, caller_var, current_caller
from services.common.grpc_server import Registration, serve
from services.common.lifecycle import Lifecycle, running
from services.common.settings import CommonSettings
from services.common.tokens import TokenVerifier


class Line(queue_grpc.QueueServiceServicer):
    """Answers, fails and streams as its requests say, and remembers what it knew."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.raises: BaseException | None = None

    async def JoinQueue(self, request: Any, context: Any) -> Any:
        self.seen.append(
            {
                "caller": caller_var.get(),
                "traceparent": telemetry.current_traceparent(),
                "request_id": logs.request_id.get(),
                "remaining": context.time_remaining(),
            }
        )
        if self.raises is not None:
            raise self.raises
        return queue_pb.JoinQueueResponse(signed_place=str(current_caller().user_id))

    async def WatchPlace(self, request: Any, context: Any) -> AsyncIterator[queue_pb.WatchPlaceResponse]:
        yield queue_pb.WatchPlaceResponse(place=queue_pb.Place(position=2))
        if self.raises is not None:
            raise self.raises
        yield queue_pb.WatchPlaceResponse(place=queue_pb.Place(position=current_caller().user_id))

    async def LeaveQueue(self, request: Any, context: Any) -> Any:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetQueuePolicy(self, request: Any, context: Any) -> Any:
        return queue_pb.GetQueuePolicyResponse()


class Bookings(booking_grpc.BookingServiceServicer):
    async def Reserve(self, request: Any, context: Any) -> Any:
        return booking_pb.ReserveResponse(booking_id="b")

    async def BatchReserve(self, request: Any, context: Any) -> Any:
        assert caller_var.get() is None
        return booking_pb.BatchReserveResponse()


class Accounts(auth_grpc.AuthServiceServicer):
    async def GetJwks(self, request: Any, context: Any) -> Any:
        return auth_pb.GetJwksResponse()


class ByName(TokenVerifier):
    """Takes "buyer" and "operator" for tokens: what a token must be is shown in test_tokens."""

    def __init__(self) -> None:
        pass

    async def verify(self, token: str) -> Caller:
        await asyncio.sleep(0)
        if token not in {"buyer", "operator"}:
            raise errors.Unauthenticated
        return Caller(7, frozenset({token}), "s1")


class Shop:
    """A running server, and a channel to it that carries nothing on."""

    def __init__(self, channel: grpc.aio.Channel, port: int, lifecycle: Lifecycle, line: Line) -> None:
        self.channel, self.port, self.lifecycle, self.line = channel, port, lifecycle, line
        self.queue = queue_grpc.QueueServiceStub(channel)
        self.bookings = booking_grpc.BookingServiceStub(channel)
        self.auth = auth_grpc.AuthServiceStub(channel)


@asynccontextmanager
async def open_shop(verifier: TokenVerifier | None) -> AsyncIterator[Shop]:
    line = Line()  # type: ignore[abstract] # answers what the tests ask

    async def wire(lifecycle: Lifecycle) -> None:
        registrations: list[Registration] = [
            (queue_grpc.add_QueueServiceServicer_to_server, line),
            (booking_grpc.add_BookingServiceServicer_to_server, Bookings()),  # type: ignore[abstract] # the same
            (auth_grpc.add_AuthServiceServicer_to_server, Accounts()),  # type: ignore[abstract] # the same
        ]
        await serve(lifecycle, CommonSettings(), registrations, verifier)

    async with running(wire, drain_seconds=0.2) as lifecycle:
        port = int(str(lifecycle.addresses["grpc_port"]))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Shop(channel, port, lifecycle, line)


def bearer(token: str, *more: tuple[str, str]) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"), *more)


async def reason_of(call: Any) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason, _, metadata = errors.from_rpc_error(caught.value)
    return reason, metadata
