"""Routes from descriptors: what is called with what, and how the answer is told."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from boxoffice.inventory.v1 import event_service_pb2 as event_pb
from boxoffice.notify.v1 import notify_service_pb2 as notify_pb
from boxoffice.options.v1 import options_pb2
from boxoffice.queue.v1 import queue_service_pb2 as queue_pb
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from edge.transcode.contract import Contract, message_class
from edge.transcode.problems import ContractError
from services.common import telemetry
from tests.edge.world import World, bearer, contract_of, world
from tests.support import eventually

_KEY = {"Idempotency-Key": "key-00000001"}


async def test_path_and_response(edge: World) -> None:
    edge.backend.scripts["GetEvent"] = lambda request: event_pb.GetEventResponse(
        event=event_pb.Event(event_id=request.event_id, name="함께", sale_state=event_pb.Event.SALE_STATE_OPEN)
    )
    status, told, response = await edge.answer("GET", "/api/events/42")
    assert status == 200
    assert told["event"]["event_id"] == 42
    assert told["event"]["name"] == "함께"
    assert told["event"]["sale_state"] == "OPEN"
    assert told["event"]["tickets_per_person"] == 0
    assert "start_time" not in told["event"]
    assert response.headers["Cache-Control"] == "public, max-age=1"


async def test_query(edge: World) -> None:
    edge.backend.scripts["ListBookings"] = lambda _request: booking_pb.ListBookingsResponse(next_page_token="n")
    status, told, _ = await edge.answer("GET", "/api/tickets?page_size=5&page_token=a%2Bb", headers=bearer())
    assert (status, told) == (200, {"bookings": [], "next_page_token": "n"})
    assert edge.backend.called("ListBookings") == [booking_pb.ListBookingsRequest(page_size=5, page_token="a+b")]


async def test_body_with_optional_fields(edge: World) -> None:
    edge.backend.scripts["UpdateQueuePolicy"] = lambda _request: queue_pb.UpdateQueuePolicyResponse()
    body = {"mode": "HOLD", "rate_per_second": 3, "inside_cap": 0}
    status, told, _ = await edge.answer("PATCH", "/api/events/9/queue/policy", json=body, headers=bearer(1, "operator"))
    assert (status, told) == (200, {})
    (request,) = edge.backend.called("UpdateQueuePolicy")
    assert request == queue_pb.UpdateQueuePolicyRequest(
        event_id=9, mode=queue_pb.QueuePolicy.MODE_HOLD, rate_per_second=3, inside_cap=0
    )
    assert request.HasField("inside_cap")
    assert not request.HasField("admission_seconds")


async def test_delete_with_an_escaped_path(edge: World) -> None:
    edge.backend.scripts["UnregisterDevice"] = lambda _request: notify_pb.UnregisterDeviceResponse()
    status, _, _ = await edge.answer("DELETE", "/api/notifications/register/a%3Ab-1", headers=bearer())
    assert status == 200
    assert edge.backend.called("UnregisterDevice")[0].device_token == "a:b-1"


async def test_an_empty_body_is_an_empty_object(edge: World) -> None:
    edge.backend.scripts["ClaimPlace"] = lambda _request: queue_pb.ClaimPlaceResponse(admission_token="t")
    status, told, _ = await edge.answer("POST", "/api/events/3/queue/claim", headers=bearer())
    assert (status, told) == (200, {"admission_token": "t"})
    assert edge.backend.called("ClaimPlace")[0].event_id == 3


@pytest.mark.parametrize(("joined", "status"), [(False, 201), (True, 200)])
async def test_success_status_and_ok_when_true(edge: World, joined: bool, status: int) -> None:
    result = queue_pb.BatchJoinQueueResult(response=queue_pb.JoinQueueResponse(already_joined=joined))
    edge.backend.scripts["BatchJoinQueue"] = lambda _request: queue_pb.BatchJoinQueueResponse(results=[result])
    answered, told, _ = await edge.answer("POST", "/api/events/3/queue", json={}, headers=bearer())
    assert (answered, told["already_joined"]) == (status, joined)


def _paid(replayed: bool) -> Any:
    return lambda _request: booking_pb.PayBookingResponse(booking=booking_pb.Booking(booking_id="b"), replayed=replayed)


@pytest.mark.parametrize("replayed", [False, True])
async def test_header_fields(edge: World, replayed: bool) -> None:
    edge.backend.scripts["PayBooking"] = _paid(replayed)
    body = {"booking_id": "b", "payment_method": "tok_approve"}
    status, told, response = await edge.answer("POST", "/api/tickets/pay", json=body, headers=bearer() | _KEY)
    assert status == 200
    assert set(told) == {"booking"}
    assert response.headers.get("Idempotency-Replayed") == ("true" if replayed else None)
    assert edge.backend.called("PayBooking")[0].idempotency_key == "key-00000001"


async def test_the_call_carries_who_and_which_trace(edge: World) -> None:
    edge.backend.scripts["GetMe"] = lambda _request: auth_pb.GetMeResponse()
    parent = telemetry.new_traceparent()
    headers = bearer() | {"traceparent": parent, "X-Request-Id": "my-request-1"}
    _, _, response = await edge.answer("GET", "/api/auth/me", headers=headers)
    sent = edge.backend.metadata("GetMe")
    assert sent["authorization"] == headers["Authorization"]
    assert telemetry.trace_id_of(sent["traceparent"]) == telemetry.trace_id_of(parent)
    assert sent["x-request-id"] == response.headers["X-Request-Id"] == "my-request-1"


async def test_a_connection_does_not_remember_the_request_before(edge: World) -> None:
    edge.backend.scripts["GetMe"] = lambda _request: auth_pb.GetMeResponse()
    edge.backend.scripts["ListEvents"] = lambda _request: event_pb.ListEventsResponse()
    await edge.answer("GET", "/api/auth/me", headers=bearer() | {"X-Request-Id": "my-request-1"})
    _, _, response = await edge.answer("GET", "/api/events", headers={"X-Request-Id": "not sane; at all"})
    sent = edge.backend.metadata("ListEvents")
    assert "authorization" not in sent
    assert sent["x-request-id"] == response.headers["X-Request-Id"]
    assert response.headers["X-Request-Id"] not in {"my-request-1", "not sane; at all"}


async def test_every_response_has_security_headers(edge: World) -> None:
    for path in ("/", "/docs", "/api/events", "/nowhere", "/livez"):
        async with edge.request("GET", path) as response:
            headers = response.headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Server"] == "boxoffice"
        assert headers["X-Request-Id"]


def _map(etag: str) -> Any:
    return lambda _request: event_pb.GetSeatMapResponse(etag=etag, seat_map=event_pb.SeatMap(name="Club"))


@pytest.mark.parametrize("condition", ['"v1"', 'W/"v1"', '"v0", "v1"', "*"])
async def test_what_the_client_has_is_not_sent_again(edge: World, condition: str) -> None:
    edge.backend.scripts["GetSeatMap"] = _map("v1")
    status, told, response = await edge.answer("GET", "/api/events/1/seatmap", headers={"If-None-Match": condition})
    assert (status, told) == (304, None)
    assert response.headers["ETag"] == '"v1"'
    assert response.headers["Cache-Control"] == "public, max-age=3600"


@pytest.mark.parametrize("condition", ['"v0"', "v1", ""])
async def test_what_the_client_has_not_is_sent(edge: World, condition: str) -> None:
    edge.backend.scripts["GetSeatMap"] = _map('"v1"')
    status, told, response = await edge.answer("GET", "/api/events/1/seatmap", headers={"If-None-Match": condition})
    assert status == 200
    assert set(told) == {"seat_map"}
    assert response.headers["ETag"] == '"v1"'


async def test_head_is_get_without_a_body(edge: World) -> None:
    edge.backend.scripts["GetSeatMap"] = _map("v1")
    status, told, response = await edge.answer("HEAD", "/api/events/1/seatmap")
    assert (status, told, response.headers["ETag"]) == (200, None, '"v1"')


async def test_times_and_bytes(edge: World) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
    event = event_pb.Event()
    event.start_time.FromDatetime(moment)
    edge.backend.scripts["GetEvent"] = lambda _request: event_pb.GetEventResponse(event=event)
    edge.backend.scripts["GetAvailability"] = lambda _request: event_pb.GetAvailabilityResponse(taken=b"\xf0\x01")
    _, told, _ = await edge.answer("GET", "/api/events/1")
    assert datetime.fromisoformat(told["event"]["start_time"]) == moment
    assert told["event"]["start_time"].endswith("Z")
    _, told, _ = await edge.answer("GET", "/api/events/1/availability")
    assert told["taken"] == "8AE="


async def test_internal_methods_have_no_route() -> None:
    served = {operation.rpc.name for operation in contract_of().operations}
    assert "Reserve" in served
    assert "BatchReserve" not in served


def _new_file(package: str = "boxoffice.inventory.v1", path: str = "/api/seats/{seat}/notes:add") -> Any:
    """A file with one annotated RPC that no stub knows, as protoc would describe it."""
    name = path.replace("/", "_").replace("{", "").replace("}", "").replace(":", "_")
    file = descriptor_pb2.FileDescriptorProto(name=f"made/for/test{name}.proto", package=package, syntax="proto3")
    file.dependency.extend(["google/api/annotations.proto", "boxoffice/options/v1/options.proto"])
    request, response = file.message_type.add(name=f"Ask{name}"), file.message_type.add(name=f"Told{name}")
    field = descriptor_pb2.FieldDescriptorProto
    request.field.add(name="seat", number=1, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    request.field.add(name="notes", number=2, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    response.field.add(name="count", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    service = file.service.add(name=f"Notes{name}")
    method = service.method.add(name="AddNotes", input_type=request.name, output_type=response.name)
    method.input_type, method.output_type = f".{package}.{request.name}", f".{package}.{response.name}"
    rule = method.options.Extensions[annotations_pb2.http]
    rule.post, rule.body = path, "*"
    method.options.Extensions[options_pb2.policy].access = options_pb2.ACCESS_PUBLIC
    return file


async def test_a_new_annotated_rpc_is_served_without_code() -> None:
    served = contract_of(_new_file())
    (operation,) = (one for one in served.operations if one.rpc.name == "AddNotes")
    response = message_class(operation.rpc.output_type)
    async with world(served) as edge:
        edge.backend.scripts["AddNotes"] = lambda request: response(count=len(request.notes))
        status, told, _ = await edge.answer("POST", "/api/seats/5/notes:add", json={"notes": ["a", "b"]})
        assert (status, told) == (200, {"count": 2})
        assert edge.backend.called("AddNotes")[0].seat == 5
        _, document, _ = await edge.answer("GET", "/api/openapi.json")
        assert "/api/seats/{seat}/notes:add" in document["paths"]


def _spoilt(change: Any) -> Contract:
    file = _new_file(path=f"/api/spoilt/{{seat}}/{change.__name__}")
    change(file.service[0].method[0])
    return contract_of(file)


def _undeclared(method: Any) -> None:
    method.options.Extensions[options_pb2.policy].access = options_pb2.ACCESS_UNSPECIFIED


def _unknown_field(method: Any) -> None:
    method.options.Extensions[annotations_pb2.http].post = "/api/spoilt/{chair}"


def _streams_requests(method: Any) -> None:
    method.client_streaming = True


def _same_address(method: Any) -> None:
    method.options.Extensions[annotations_pb2.http].post = "/api/auth/login"


@pytest.mark.parametrize("change", [_undeclared, _unknown_field, _streams_requests, _same_address])
def test_contracts_that_cannot_be_served_are_refused_at_start(change: Any) -> None:
    with pytest.raises(ContractError):
        _spoilt(change)


async def test_a_batch_twin_that_does_not_exist_is_refused_at_start() -> None:
    def no_twin(method: Any) -> None:
        method.options.Extensions[options_pb2.policy].batch = "Nobody"

    served = _spoilt(no_twin)
    with pytest.raises(ContractError, match="Nobody"):
        async with world(served):
            pass


async def test_a_backend_that_goes_is_told_and_takes_no_edge_out_of_service(edge: World) -> None:
    async def readiness() -> Any:
        status, told, _ = await edge.answer("GET", "/readyz")
        return status, sorted(told.get("degraded", ["not ready"]))

    await eventually(lambda: _equals(readiness, (200, [])))
    port = edge.backend.port
    await edge.backend.stop()
    await eventually(lambda: _equals(readiness, (200, ["auth", "inventory", "notify", "queue"])))
    status, told, _ = await edge.answer("GET", "/livez")
    assert (status, told) == (200, {"status": "alive"})
    status, code, _ = await edge.problem("GET", "/api/events")
    assert (status, code) == (503, "UNAVAILABLE")
    edge.backend.port = port
    await edge.backend.start()
    await eventually(lambda: _equals(readiness, (200, [])))


async def _equals(asked: Any, wanted: object) -> bool:
    return bool(await asked() == wanted)


async def test_never_ready_before_the_backends() -> None:
    async with world(inventory_target="127.0.0.1:1") as edge:
        await eventually(lambda: _failing(edge))


async def _failing(edge: World) -> bool:
    _, told, _ = await edge.answer("GET", "/readyz")
    return bool(told["failing"] == ["inventory"])


async def test_cors_is_off(edge: World) -> None:
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    status, code, _ = await edge.problem("OPTIONS", "/api/auth/login", headers=headers)
    assert (status, code) == (405, "METHOD_NOT_ALLOWED")


async def test_cors_for_configured_origins() -> None:
    async with world(cors_origins="https://shop.example, https://other.example") as edge:
        edge.backend.scripts["ListEvents"] = lambda _request: event_pb.ListEventsResponse()
        origin = {"Origin": "https://shop.example"}
        preflight = origin | {"Access-Control-Request-Method": "POST"}
        status, _, response = await edge.answer("OPTIONS", "/api/auth/login", headers=preflight)
        assert (status, response.headers["Access-Control-Allow-Origin"]) == (204, "https://shop.example")
        _, _, response = await edge.answer("GET", "/api/events", headers=origin)
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        _, _, response = await edge.answer("GET", "/api/events", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_client_that_hangs_up_does_not_stop_a_mutation(edge: World) -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    async def slowly(_request: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.2)
        finished.set()
        return booking_pb.CancelBookingResponse()

    edge.backend.scripts["CancelBooking"] = slowly
    call = asyncio.create_task(
        edge.answer("POST", "/api/tickets/cancel", json={"booking_id": "b"}, headers=bearer() | _KEY)
    )
    await begun.wait()
    call.cancel()
    async with asyncio.timeout(5):
        await finished.wait()
    assert call.cancelled(), "the client did hang up"
