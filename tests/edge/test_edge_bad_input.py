"""Bad input: each kind is a problem document with a stable code, and reaches no service."""

import asyncio
from typing import Any

import grpc
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.errors.v1 import reason_pb2
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from boxoffice.inventory.v1 import event_service_pb2 as event_pb
from boxoffice.options.v1 import options_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from grpc_status import rpc_status

from edge.transcode.contract import message_class
from services.common import errors
from tests.edge.world import FORGED_KEY, World, bearer, contract_of, token, world

_KEY = {"Idempotency-Key": "key-00000001"}
_LOGIN = "/api/auth/login"
_RESERVE = "/api/tickets/reserve"

# What is sent to log in, and what comes of it: status, code, and the field that is named.
_BODIES: list[tuple[str, bytes, int, str, str]] = [
    ("not JSON", b"{", 400, "MALFORMED_JSON", ""),
    ("trailing text", b"{} {}", 400, "MALFORMED_JSON", ""),
    ("NaN", b'{"email":NaN}', 400, "MALFORMED_JSON", ""),
    ("infinite number", b'{"email":1e999}', 400, "MALFORMED_JSON", ""),
    ("invalid UTF-8", b'{"email":"\xff"}', 400, "MALFORMED_JSON", ""),
    ("lone surrogate", b'{"email":"\\ud800"}', 400, "MALFORMED_JSON", ""),
    ("byte order mark", b"\xef\xbb\xbf{}", 400, "MALFORMED_JSON", ""),
    ("deep nesting", b'{"email":' * 5000 + b"1" + b"}" * 5000, 400, "MALFORMED_JSON", ""),
    ("nesting that JSON allows", b'{"email":' + b"[" * 900 + b"]" * 900 + b"}", 400, "INVALID_ARGUMENT", "email"),
    ("array", b"[]", 400, "INVALID_ARGUMENT", ""),
    ("string", b'"x"', 400, "INVALID_ARGUMENT", ""),
    ("null", b"null", 400, "INVALID_ARGUMENT", ""),
    ("nothing", b"", 400, "INVALID_ARGUMENT", "email"),
    ("missing field", b'{"email":"a@b.c"}', 400, "INVALID_ARGUMENT", "password"),
    ("unknown field", b'{"email":"a","password":"b","admin":true}', 400, "INVALID_ARGUMENT", "admin"),
    ("number for a string", b'{"email":1,"password":"b"}', 400, "INVALID_ARGUMENT", "email"),
    ("null for a string", b'{"email":null,"password":"b"}', 400, "INVALID_ARGUMENT", "email"),
    ("too large", b'{"email":"' + b"a" * 65536 + b'"}', 413, "BODY_TOO_LARGE", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), [row[1:] for row in _BODIES], ids=[r[0] for r in _BODIES])
async def test_bodies(edge: World, body: bytes, status: int, code: str, field: str) -> None:
    edge.backend.scripts["Login"] = lambda _request: auth_pb.LoginResponse()
    headers = {"Content-Type": "application/json"}
    answered, told_code, told = await edge.problem("POST", _LOGIN, data=body, headers=headers)
    assert (answered, told_code) == (status, code)
    assert field in [error["field"] for error in told.get("errors", [{"field": ""}])]
    assert told["title"] == errors.mapping(code).title
    assert len(told["trace_id"]) == 32
    assert edge.backend.called("Login") == []


async def test_a_body_that_is_no_object_is_told_in_plain_words(edge: World) -> None:
    headers = {"Content-Type": "application/json"}
    _, _, told = await edge.problem("POST", _LOGIN, data=b"[]", headers=headers)
    assert told["detail"] == "the body must be an object"


_RESERVATIONS: list[tuple[Any, str]] = [
    ({"event_id": True}, "event_id"),
    ({"event_id": "1"}, "event_id"),
    ({"event_id": 1.5}, "event_id"),
    ({"event_id": 2**53}, "event_id"),
    ({"event_id": -(2**53)}, "event_id"),
    ({"event_id": 2**64}, "event_id"),
    ({"event_id": 1, "ticket_ids": 5}, "ticket_ids"),
    ({"event_id": 1, "ticket_ids": [1, False]}, "ticket_ids[1]"),
    ({"event_id": 1, "ticket_ids": [None]}, "ticket_ids[0]"),
    ({"event_id": 1, "best_available": []}, "best_available"),
    ({"event_id": 1, "best_available": {}}, "best_available.quantity"),
    ({"event_id": 1, "best_available": {"quantity": 2**31}}, "best_available.quantity"),
    ({"event_id": 1, "best_available": {"quantity": 1, "row": 2}}, "best_available.row"),
    ({"event_id": 1, "idempotency_key": "key-00000002"}, "idempotency_key"),
    ({"event_id": 1, "admission_token": "t"}, "admission_token"),
    ({"x" * 5000: 1, "event_id": 1}, "x" * 100 + "…"),
]


@pytest.mark.parametrize(("body", "field"), _RESERVATIONS, ids=lambda value: str(value)[:60])
async def test_fields_are_named_by_their_path(edge: World, body: Any, field: str) -> None:
    status, code, told = await edge.problem("POST", _RESERVE, json=body, headers=bearer() | _KEY)
    assert (status, code) == (400, "INVALID_ARGUMENT")
    assert [error["field"] for error in told["errors"]] == [field]
    assert edge.backend.called("BatchReserve") == []


async def test_all_that_is_wrong_is_told_at_once_but_not_without_end(edge: World) -> None:
    body = {"event_id": "x", "ticket_ids": ["a"] * 1000, "more": 1}
    _, _, told = await edge.problem("POST", _RESERVE, json=body, headers=bearer() | _KEY)
    assert [error["field"] for error in told["errors"]][:2] == ["event_id", "ticket_ids[0]"]
    assert len(told["errors"]) == 20


async def test_a_whole_number_may_have_a_point(edge: World) -> None:
    headers = bearer() | _KEY | {"Content-Type": "application/json"}
    _, _, told = await edge.problem("POST", _RESERVE, data=b'{"event_id":1e2,"no":1}', headers=headers)
    assert [error["field"] for error in told["errors"]] == ["no"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/events/abc", "event_id"),
        ("/api/events/1.0", "event_id"),
        ("/api/events/9007199254740992", "event_id"),
        ("/api/events/%D9%A3", "event_id"),
        ("/api/events/1?debug=1", "debug"),
        ("/api/events?page_size=x", "page_size"),
        ("/api/events?page_size=1&page_size=2", "page_size"),
        ("/api/events?page_size=4294967296", "page_size"),
    ],
)
async def test_paths_and_queries(edge: World, path: str, field: str) -> None:
    status, code, told = await edge.problem("GET", path)
    assert (status, code) == (400, "INVALID_ARGUMENT")
    assert [error["field"] for error in told["errors"]] == [field]


@pytest.mark.parametrize("path", ["/api/tickets/status", "/api/tickets/status?booking_id="])
async def test_a_required_parameter(edge: World, path: str) -> None:
    _, code, told = await edge.problem("GET", path, headers=bearer())
    assert (code, told["errors"][0]["field"]) == ("INVALID_ARGUMENT", "booking_id")


async def test_a_path_field_may_not_be_repeated_in_the_body(edge: World) -> None:
    _, code, told = await edge.problem("POST", "/api/events/3/queue", json={"event_id": 3}, headers=bearer())
    assert (code, told["errors"]) == ("INVALID_ARGUMENT", [{"field": "event_id", "detail": "is taken from the path"}])


@pytest.mark.parametrize("value", ["STATE_OPEN", "MODE_OPEN", "open", 1, "CLOSED"])
async def test_enums_have_one_spelling(edge: World, value: object) -> None:
    body = {"mode": value}
    headers = bearer(1, "operator")
    _, code, told = await edge.problem("PATCH", "/api/events/1/queue/policy", json=body, headers=headers)
    assert (code, told["errors"][0]["field"]) == ("INVALID_ARGUMENT", "mode")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=euc-kr"]
)
async def test_media_types(edge: World, kind: str) -> None:
    status, code, _ = await edge.problem("POST", _LOGIN, data=b"{}", headers={"Content-Type": kind})
    assert (status, code) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_with_its_charset_is_json(edge: World) -> None:
    edge.backend.scripts["Login"] = lambda _request: auth_pb.LoginResponse()
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    status, _, _ = await edge.answer("POST", _LOGIN, data=b'{"email":"a","password":"b"}', headers=headers)
    assert status == 200


async def test_a_body_of_unknown_length_is_limited_too(edge: World) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 8192

    headers = {"Content-Type": "application/json"}
    status, code, _ = await edge.problem("POST", _LOGIN, data=endless(), headers=headers)
    assert (status, code) == (413, "BODY_TOO_LARGE")


async def test_addresses_that_do_not_exist(edge: World) -> None:
    for path in ("/nowhere", "/api/events/", "/assets/../app.py", "/assets/%2e%2e/app.py"):
        status, code, _ = await edge.problem("GET", path)
        assert (status, code) == (404, "ROUTE_NOT_FOUND")
    async with edge.request("PUT", "/api/events") as response:
        told = await response.json(content_type=None)
        assert (response.status, told["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert response.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "UNAUTHENTICATED"),
        ("", "UNAUTHENTICATED"),
        ("Basic YTpi", "UNAUTHENTICATED"),
        ("Bearer", "UNAUTHENTICATED"),
        ("Bearer abc", "UNAUTHENTICATED"),
        ("Bearer schlüssel", "UNAUTHENTICATED"),
        (f"Bearer {token(key=FORGED_KEY)}", "UNAUTHENTICATED"),
        (f"Bearer {token(iss='someone')}", "UNAUTHENTICATED"),
        (f"Bearer {token(lives=-1)}", "TOKEN_EXPIRED"),
    ],
)
async def test_tokens(edge: World, authorization: str | None, code: str) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    async with edge.request("GET", "/api/auth/me", headers=headers) as response:
        told = await response.json(content_type=None)
        assert (response.status, told["code"]) == (401, code)
        challenge = response.headers["WWW-Authenticate"]
        assert challenge.startswith("Bearer")
        assert ("invalid_token" in challenge) == (code == "TOKEN_EXPIRED")
    assert edge.backend.called("GetMe") == []


async def test_a_bad_token_does_not_harm_what_is_public(edge: World) -> None:
    edge.backend.scripts["ListEvents"] = lambda _request: event_pb.ListEventsResponse()
    status, _, _ = await edge.answer("GET", "/api/events", headers={"Authorization": f"Bearer {token(lives=-1)}"})
    assert status == 200


@pytest.mark.parametrize("role", ["buyer", "organizer"])
async def test_roles(edge: World, role: str) -> None:
    status, code, _ = await edge.problem("GET", "/api/events/1/queue/policy", headers=bearer(1, role))
    assert (status, code) == (403, "PERMISSION_DENIED")
    assert edge.backend.called("GetQueuePolicy") == []


async def test_a_stranger_learns_nothing_about_fields(edge: World) -> None:
    status, code, _ = await edge.problem("POST", _RESERVE, data=b"{", headers={"Content-Type": "application/json"})
    assert (status, code) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("path", [_RESERVE, "/api/tickets/pay", "/api/tickets/cancel"])
async def test_idempotency_keys(edge: World, path: str) -> None:
    status, code, _ = await edge.problem("POST", path, json={}, headers=bearer())
    assert (status, code) == (400, "IDEMPOTENCY_KEY_REQUIRED")
    for key in ("short", "x" * 129, "schlüssel-1"):
        _, code, told = await edge.problem("POST", path, json={}, headers=bearer() | {"Idempotency-Key": key})
        assert (code, told["errors"][0]["field"]) == ("INVALID_ARGUMENT", "Idempotency-Key")


class _Typed(errors.BoxofficeError):
    def __init__(self, reason: str, metadata: dict[str, str]) -> None:
        self.reason = reason
        super().__init__("as the service says", metadata)


@pytest.mark.parametrize(
    "reason",
    [value.name.removeprefix("REASON_") for value in reason_pb2.Reason.DESCRIPTOR.values if value.number],
)
async def test_every_reason_of_the_catalogue_is_told_as_it_says(edge: World, reason: str) -> None:
    def refuse(_request: Any) -> Any:
        raise _Typed(reason, {"retry_after_ms": "1500", "field": "x", "limit": "4"})

    edge.backend.scripts["ListEvents"] = refuse
    async with edge.request("GET", "/api/events") as response:
        told = await response.json(content_type=None)
    assert (response.status, told["code"]) == (errors.mapping(reason).http_status, reason)
    assert told["title"] == errors.mapping(reason).title
    assert told["type"] == f"/docs#{reason}"
    assert told["detail"] == "as the service says"
    assert (told["retry_after_ms"], response.headers["Retry-After"]) == (1500, "2")
    assert told["errors"] == [{"field": "x", "detail": "as the service says"}]
    assert told["metadata"] == {"limit": "4"}


class _Wordless(Exception):
    reason = "SALE_CLOSED"


async def _refuse_as_services_do(_request: Any) -> None:
    raise _Wordless


async def _refuse_without_text(_request: Any, context: Any) -> None:
    status = errors.to_status(_Wordless())
    status.message = ""
    await context.abort_with_status(rpc_status.to_status(status))


@pytest.mark.parametrize("script", [_refuse_as_services_do, _refuse_without_text])
async def test_a_refusal_without_a_text_is_told_with_that_of_the_catalogue(edge: World, script: Any) -> None:
    edge.backend.scripts["ListEvents"] = script
    status, code, told = await edge.problem("GET", "/api/events")
    assert (status, code) == (409, "SALE_CLOSED")
    assert told["detail"] == told["title"] == errors.mapping("SALE_CLOSED").title


def test_services_tell_a_wordless_refusal_with_the_text_of_the_catalogue() -> None:
    assert errors.to_status(_Wordless()).message == errors.mapping("SALE_CLOSED").title


async def test_a_backend_that_is_away(edge: World) -> None:
    await edge.backend.stop()
    async with edge.request("GET", "/api/events") as response:
        told = await response.json(content_type=None)
    assert (response.status, told["code"], told["retry_after_ms"]) == (503, "UNAVAILABLE", 1000)
    assert response.headers["Retry-After"] == "1"
    assert "127.0.0.1" not in str(told)


async def test_what_a_proxy_says_is_not_passed_on(edge: World) -> None:
    async def abort(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "upstream 10.0.0.7 overflow")

    edge.backend.scripts["ListEvents"] = abort
    status, code, told = await edge.problem("GET", "/api/events")
    assert (status, code) == (500, "INTERNAL")
    assert "10.0.0.7" not in str(told)


async def test_a_method_that_the_backend_has_not(edge: World) -> None:
    status, code, _ = await edge.problem("GET", "/api/events")
    assert (status, code) == (500, "INTERNAL")


def _file(name: str, change: Any) -> Any:
    """A file with one RPC on POST /api/made/<name>, to be changed."""
    package = "boxoffice.inventory.v1"
    file = descriptor_pb2.FileDescriptorProto(name=f"made/for/bad/{name}.proto", package=package, syntax="proto3")
    file.dependency.extend(["google/api/annotations.proto", "boxoffice/options/v1/options.proto"])
    request = file.message_type.add(name=f"Ask{name}")
    field = descriptor_pb2.FieldDescriptorProto
    request.field.add(name="text", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    method = file.service.add(name=f"Made{name}").method.add(
        name=f"Do{name}", input_type=f".{package}.Ask{name}", output_type=f".{package}.Ask{name}"
    )
    method.options.Extensions[annotations_pb2.http].post = f"/api/made/{name}"
    method.options.Extensions[options_pb2.policy].access = options_pb2.ACCESS_PUBLIC
    change(request.field[0], method)
    return file


def _raw(field: Any, _method: Any) -> None:
    field.options.Extensions[options_pb2.field].raw_body = True


async def test_raw_bodies() -> None:
    served = contract_of(_file("Raw", _raw))
    (operation,) = (one for one in served.operations if one.rpc.name == "DoRaw")
    answer = message_class(operation.rpc.output_type)
    async with world(served) as edge:
        edge.backend.scripts["DoRaw"] = lambda _request: answer()
        large = b"{ any thing " + b"x" * 200_000
        status, _, _ = await edge.answer("POST", "/api/made/Raw", data=large)
        assert status == 200
        assert edge.backend.called("DoRaw")[0].text == large.decode()
        _, code, _ = await edge.problem("POST", "/api/made/Raw", data=b"\xff")
        assert code == "INVALID_ARGUMENT"
        _, code, _ = await edge.problem("POST", "/api/made/Raw", data=b"x" * (256 * 1024 + 1))
        assert code == "BODY_TOO_LARGE"


def _short_deadline(_field: Any, method: Any) -> None:
    method.options.Extensions[annotations_pb2.http].body = "*"
    method.options.Extensions[options_pb2.policy].deadline.FromMilliseconds(100)


async def test_deadlines() -> None:
    async with world(contract_of(_file("Slow", _short_deadline))) as edge:

        async def never(_request: Any) -> None:
            await asyncio.sleep(30)

        edge.backend.scripts["DoSlow"] = never
        status, code, _ = await edge.problem("POST", "/api/made/Slow", json={})
        assert (status, code) == (504, "DEADLINE_EXCEEDED")


async def test_a_fault_of_our_own_is_told_without_its_text(edge: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ValueError("secret text")

    monkeypatch.setattr("edge.streams.Streams.serve", explode)
    path = "/api/tickets/status/stream?booking_id=b"
    status, code, told = await edge.problem("GET", path, headers=bearer())
    assert (status, code) == (500, "INTERNAL")
    assert "secret" not in str(told)


async def test_nothing_of_booking_reaches_a_service_before_it_is_sound(edge: World) -> None:
    edge.backend.scripts["BatchReserve"] = lambda _request: booking_pb.BatchReserveResponse()
    for headers in ({}, bearer(), bearer(lives=-1) | _KEY):
        await edge.problem("POST", _RESERVE, json={"event_id": 1, "ticket_ids": [1]}, headers=headers)
    assert edge.backend.called("BatchReserve") == []
