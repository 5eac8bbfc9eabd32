"""What every RPC of every service goes through, on a real server."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from boxoffice.queue.v1 import queue_service_pb2 as queue_pb
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from services.common.caller import Caller
from services.common.grpc_server import serve
from services.common.lifecycle import Lifecycle, running
from services.common.settings import CommonSettings
from tests.common.rpc import ByName, Shop, bearer, open_shop, reason_of
from tests.support import eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
KEY = "idempotency-key-1"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop(ByName()) as shop:
        yield shop


def _count(method: str, reason: str, service: str = "boxoffice.queue.v1.QueueService") -> float:
    labels = {"service": service, "method": method, "reason": reason}
    return REGISTRY.get_sample_value("boxoffice_rpc_duration_seconds_count", labels) or 0.0


async def test_a_handler_knows_caller_trace_request_id_and_time_left(shop: Shop) -> None:
    metadata = bearer("buyer", ("traceparent", TRACEPARENT), ("x-request-id", "r-1"))
    answer = await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata, timeout=5)
    assert answer.signed_place == "7"
    (seen,) = shop.line.seen
    assert seen["caller"] == Caller(7, frozenset({"buyer"}), "s1")
    assert (seen["traceparent"], seen["request_id"]) == (TRACEPARENT, "r-1")
    assert 4 < seen["remaining"] < 6  # the clocks of both ends round


async def test_one_call_knows_nothing_of_the_one_before(shop: Shop) -> None:
    metadata = bearer("buyer", ("traceparent", TRACEPARENT), ("x-request-id", "r-1"))
    await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata)
    await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=bearer("buyer"))
    first, second = shop.line.seen
    assert second["request_id"] == ""
    assert second["traceparent"] not in {"", first["traceparent"]}


@pytest.mark.parametrize("authorization", [None, "", "buyer", "Basic buyer", "Bearer", "Bearer forged"])
async def test_a_method_for_accounts_needs_a_good_bearer_token(shop: Shop, authorization: str | None) -> None:
    metadata = grpc.aio.Metadata(*([("authorization", authorization)] if authorization is not None else []))
    call = shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=metadata)
    assert (await reason_of(call))[0] == "UNAUTHENTICATED"
    assert shop.line.seen == []


async def test_a_role_is_asked_for(shop: Shop) -> None:
    request = queue_pb.GetQueuePolicyRequest(event_id=1)
    assert (await reason_of(shop.queue.GetQueuePolicy(request, metadata=bearer("buyer"))))[0] == "PERMISSION_DENIED"
    assert await shop.queue.GetQueuePolicy(request, metadata=bearer("operator")) is not None


async def test_public_and_internal_methods_need_no_token(shop: Shop) -> None:
    await shop.auth.GetJwks(auth_pb.GetJwksRequest(), metadata=bearer("forged"))
    await shop.bookings.BatchReserve(booking_pb.BatchReserveRequest())


async def test_without_a_verifier_nobody_passes_for_an_account() -> None:
    async with open_shop(None) as shop:
        await shop.auth.GetJwks(auth_pb.GetJwksRequest())
        call = shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=bearer("buyer"))
        assert (await reason_of(call))[0] == "UNAUTHENTICATED"


async def test_a_stranger_is_not_told_what_is_wrong_with_the_request(shop: Shop) -> None:
    assert (await reason_of(shop.queue.JoinQueue(queue_pb.JoinQueueRequest())))[0] == "UNAUTHENTICATED"


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
    assert await reason_of(shop.bookings.Reserve(request_, metadata=bearer("buyer"))) == expected


async def test_a_complete_request_passes(shop: Shop) -> None:
    best = booking_pb.BestAvailable(quantity=2)
    request = booking_pb.ReserveRequest(event_id=1, idempotency_key=KEY, best_available=best)
    assert (await shop.bookings.Reserve(request, metadata=bearer("buyer"))).booking_id == "b"


class PlaceGone(Exception):
    reason = "PLACE_NOT_FOUND"


async def test_a_domain_error_reaches_the_caller_with_error_info(shop: Shop) -> None:
    shop.line.raises = PlaceGone("no place")
    before = _count("JoinQueue", "PLACE_NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=bearer("buyer"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no place")
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("boxoffice", "PLACE_NOT_FOUND")
    # The answer is on its way before it is counted.
    await eventually(lambda: _count("JoinQueue", "PLACE_NOT_FOUND") == before + 1)


async def test_an_unknown_exception_is_told_to_the_log_once_and_to_the_caller_never(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.line.raises = RuntimeError("hunter2")
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.queue.JoinQueue(queue_pb.JoinQueueRequest(event_id=1), metadata=bearer("buyer"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(caught.value.details()) + str(caught.value.trailing_metadata())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is shop.line.raises


async def test_a_stream_that_fails_half_way_ends_with_its_reason(shop: Shop) -> None:
    shop.line.raises = PlaceGone("no place")
    call = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1), metadata=bearer("buyer"))
    first: Any = await call.read()
    assert first.place.position == 2
    assert (await reason_of(call.read()))[0] == "PLACE_NOT_FOUND"


async def test_a_stream_knows_its_caller_to_the_end_and_is_counted(shop: Shop) -> None:
    labels = {"service": "boxoffice.queue.v1.QueueService", "method": "WatchPlace", "reason": "OK"}
    before = REGISTRY.get_sample_value("boxoffice_rpc_streams_total", labels) or 0.0
    call = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1), metadata=bearer("buyer"))
    assert [answer.place.position async for answer in call] == [2, 7]
    assert REGISTRY.get_sample_value("boxoffice_rpc_streams_total", labels) == before + 1


async def test_a_stream_is_refused_before_it_begins(shop: Shop) -> None:
    stranger = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(event_id=1))
    assert (await reason_of(stranger.read()))[0] == "UNAUTHENTICATED"
    careless = shop.queue.WatchPlace(queue_pb.WatchPlaceRequest(), metadata=bearer("buyer"))
    assert await reason_of(careless.read()) == ("INVALID_ARGUMENT", {"field": "event_id"})


async def test_a_cancelled_call_is_cancelled_in_the_handler_and_is_no_fault(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    before = _count("LeaveQueue", "CANCELLED")
    call = shop.queue.LeaveQueue(queue_pb.LeaveQueueRequest(event_id=1), metadata=bearer("buyer"))
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


async def test_a_taken_port_is_an_error_and_not_shared(shop: Shop) -> None:
    settings = CommonSettings(grpc_listen=f"127.0.0.1:{shop.port}")

    async def wire(lifecycle: Lifecycle) -> None:
        await serve(lifecycle, settings, [], None)

    with pytest.raises(RuntimeError):
        async with running(wire):
            pass
