"""A real server and a real channel on loopback: what every RPC of every service goes through."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
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
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from services.common import errors, logs, telemetry
from services.common.caller import Call, Caller, call_var, caller_var, current_caller
from services.common.grpc_channel import connect
from services.common.grpc_server import Registration, serve
from services.common.lifecycle import Lifecycle, running
from services.common.settings import CommonSettings
from services.common.tokens import TokenVerifier
from tests.support import eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
KEY = "idempotency-key-1"


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
async def _shop(verifier: TokenVerifier | None) -> AsyncIterator[Shop]:
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


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with _shop(ByName()) as shop:
        yield shop


@pytest.fixture(autouse=True)
def _nobody() -> Iterator[None]:
    """Tests that play a handler leave no traces of its call behind."""
    tokens = call_var.set(None), logs.request_id.set("")
    yield
    call_var.reset(tokens[0])
    logs.request_id.reset(tokens[1])


def _as(token: str, *more: tuple[str, str]) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"), *more)


async def _reason(call: Any) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason, _, metadata = errors.from_rpc_error(caught.value)
    return reason, metadata


def _count(method: str, reason: str, service: str = "boxoffice.queue.v1.QueueService") -> float:
    labels = {"service": service, "method": method, "reason": reason}
    return REGISTRY.get_sample_value("boxoffice_rpc_duration_seconds_count", labels) or 0.0


async def test_a_handler_knows_caller_trace_request_id_and_time_left(shop: Shop) -> None:
    metadata = _as("buyer", ("traceparent", TRACEPARENT), ("x-request-id", "r-1"))
    answer = await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata, timeout=5)
    assert answer.signed_place == "7"
    (seen,) = shop.line.seen
    assert seen["caller"] == Caller(7, frozenset({"buyer"}), "s1")
    assert (seen["traceparent"], seen["request_id"]) == (TRACEPARENT, "r-1")
    assert 0 < seen["remaining"] <= 5


async def test_one_call_knows_nothing_of_the_one_before(shop: Shop) -> None:
    metadata = _as("buyer", ("traceparent", TRACEPARENT), ("x-request-id", "r-1"))
    await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata)
    await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=_as("buyer"))
    first, second = shop.line.seen
    assert second["request_id"] == ""
    assert second["traceparent"] not in {"", first["traceparent"]}


@pytest.mark.parametrize("authorization", [None, "", "buyer", "Basic buyer", "Bearer", "Bearer forged"])
async def test_a_method_for_accounts_needs_a_good_bearer_token(shop: Shop, authorization: str | None) -> None:
    metadata = grpc.aio.Metadata(*([("authorization", authorization)] if authorization is not None else []))
    call = shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata)
    assert (await _reason(call))[0] == "UNAUTHENTICATED"
    assert shop.line.seen == []


async def test_a_role_is_asked_for(shop: Shop) -> None:
    request = queue_pb.GetQueuePolicyRequest(event_id=1)
    assert (await _reason(shop.queue.GetQueuePolicy(request, metadata=_as("buyer"))))[0] == "PERMISSION_DENIED"
    assert await shop.queue.GetQueuePolicy(request, metadata=_as("operator")) is not None


async def test_public_and_internal_methods_need_no_token(shop: Shop) -> None:
    await shop.auth.GetJwks(auth_pb.GetJwksRequest(), metadata=_as("forged"))
    await shop.bookings.BatchReserve(booking_pb.BatchReserveRequest())


async def test_without_a_verifier_nobody_passes_for_an_account() -> None:
    async with _shop(None) as shop:
        await shop.auth.GetJwks(auth_pb.GetJwksRequest())
        call = shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=_as("buyer"))
        assert (await _reason(call))[0] == "UNAUTHENTICATED"


async def test_a_stranger_is_not_told_what_is_wrong_with_the_request(shop: Shop) -> None:
    assert (await _reason(shop.queue.JoinQueue(queue_pb.JoinQueueRequest())))[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (booking_pb.ReserveRequest(idempotency_key=KEY), ("INVALID_ARGUMENT", {"field": "event_id"})),
        (
            booking_pb.ReserveRequest(event_id=1, idempotency_key=KEY, best_available=booking_pb.BestAvailable()),
            ("INVALID_ARGUMENT", {"field": "best_available.quantity"}),
        ),
        (booking_pb.ReserveRequest(event_id=1), ("IDEMPOTENCY_KEY_REQUIRED", {})),
        (
            booking_pb.ReserveRequest(event_id=1, idempotency_key="short"),
            ("INVALID_ARGUMENT", {"field": "idempotency_key"}),
        ),
        (
            booking_pb.ReserveRequest(event_id=1, idempotency_key="x" * 129),
            ("INVALID_ARGUMENT", {"field": "idempotency_key"}),
        ),
        (
            booking_pb.ReserveRequest(event_id=1, idempotency_key="열쇠열쇠열쇠열쇠"),
            ("INVALID_ARGUMENT", {"field": "idempotency_key"}),
        ),
        (
            booking_pb.ReserveRequest(event_id=1, idempotency_key="with\nnewline"),
            ("INVALID_ARGUMENT", {"field": "idempotency_key"}),
        ),
    ],
)
async def test_what_the_contract_requires_is_checked(
    shop: Shop, request_: booking_pb.ReserveRequest, expected: tuple[str, dict[str, str]]
) -> None:
    assert await _reason(shop.bookings.Reserve(request_, metadata=_as("buyer"))) == expected


async def test_a_complete_request_passes(shop: Shop) -> None:
    best = booking_pb.BestAvailable(quantity=2)
    request = booking_pb.ReserveRequest(event_id=1, idempotency_key=KEY, best_available=best)
    assert (await shop.bookings.Reserve(request, metadata=_as("buyer"))).booking_id == "b"


class PlaceGone(Exception):
    reason = "PLACE_NOT_FOUND"


async def test_a_domain_error_reaches_the_caller_with_error_info(shop: Shop) -> None:
    shop.line.raises = PlaceGone("no place")
    before = _count("JoinQueue", "PLACE_NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=_as("buyer"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no place")
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("boxoffice", "PLACE_NOT_FOUND")
    assert _count("JoinQueue", "PLACE_NOT_FOUND") == before + 1


async def test_an_unknown_exception_is_told_to_the_log_once_and_to_the_caller_never(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.line.raises = RuntimeError("hunter2")
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=_as("buyer"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(caught.value.details()) + str(caught.value.trailing_metadata())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is shop.line.raises


async def test_a_stream_that_fails_half_way_ends_with_its_reason(shop: Shop) -> None:
    shop.line.raises = PlaceGone("no place")
    call = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1), metadata=_as("buyer"))
    first: Any = await call.read()
    assert first.place.position == 2
    assert (await _reason(call.read()))[0] == "PLACE_NOT_FOUND"


async def test_a_stream_knows_its_caller_to_the_end_and_is_counted(shop: Shop) -> None:
    labels = {"service": "boxoffice.queue.v1.QueueService", "method": "WatchPlace", "reason": "OK"}
    before = REGISTRY.get_sample_value("boxoffice_rpc_streams_total", labels) or 0.0
    call = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1), metadata=_as("buyer"))
    assert [answer.place.position async for answer in call] == [2, 7]
    assert REGISTRY.get_sample_value("boxoffice_rpc_streams_total", labels) == before + 1


async def test_a_stream_is_refused_before_it_begins(shop: Shop) -> None:
    stranger = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1))
    assert (await _reason(stranger.read()))[0] == "UNAUTHENTICATED"
    careless = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(), metadata=_as("buyer"))
    assert await _reason(careless.read()) == ("INVALID_ARGUMENT", {"field": "event_id"})


async def test_a_cancelled_call_is_cancelled_in_the_handler_and_is_no_fault(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    before = _count("LeaveQueue", "CANCELLED")
    call = shop.queue.LeaveQueue(queue_pb.LeaveQueueRequest(event_id=1), metadata=_as("buyer"))
    await asyncio.wait_for(shop.line.entered.wait(), 5)
    call.cancel()
    await asyncio.wait_for(shop.line.cancelled.wait(), 5)
    await eventually(lambda: _count("LeaveQueue", "CANCELLED") == before + 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_health_and_reflection_answer_without_a_token(shop: Shop) -> None:
    health = health_pb2_grpc.HealthStub(shop.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "boxoffice.queue.v1.QueueService"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == serving
    stub = reflection_pb2_grpc.ServerReflectionStub(shop.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"boxoffice.queue.v1.QueueService", "grpc.health.v1.Health"} <= names


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
        assert (await _reason(stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1))))[0] == "UNAUTHENTICATED"
        await stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=_as("buyer"))


async def test_a_call_whose_time_is_over_does_not_go_out(shop: Shop) -> None:
    call_var.set(Call("Bearer buyer", asyncio.get_running_loop().time() - 1))
    async with connect(f"127.0.0.1:{shop.port}") as channel:
        stub = queue_grpc.QueueServiceStub(channel)
        call = stub.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), timeout=60)
        assert (await _reason(call))[0] == "DEADLINE_EXCEEDED"
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
            reason, _ = await _reason(stub.Refresh(auth_pb.RefreshRequest(refresh_token="x")))
    finally:
        await server.stop(0)
    assert reason == "UNAVAILABLE"
    assert flaky.calls == ["GetJwks", "GetJwks", "Refresh"]


async def test_a_taken_port_is_an_error_and_not_shared(shop: Shop) -> None:
    settings = CommonSettings(grpc_listen=f"127.0.0.1:{shop.port}")

    async def wire(lifecycle: Lifecycle) -> None:
        await serve(lifecycle, settings, [], None)

    with pytest.raises(RuntimeError):
        async with running(wire):
            pass
