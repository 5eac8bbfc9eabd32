"""What HTTP itself allows and refuses: whatever is sent, the answer is a problem document, and no news for the log."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.inventory.v1 import event_service_pb2 as event_pb
from prometheus_client import REGISTRY

from tests.edge.world import World, token, world
from tests.support import eventually

_LOGIN = "/api/auth/login"
_CREDENTIALS = b'{"email":"a","password":"b"}'
# Part of every bad request, and of no answer.
_SENT = b"zz-sent-by-a-client"


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> tuple[int, str]:
        """Status and code of what must be a problem with the headers of every response."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["server"] == "boxoffice"
        assert len(self.headers["x-request-id"]) >= 8
        told = json.loads(self.body)
        assert told["status"] == self.status
        assert len(told["trace_id"]) == 32
        assert told["detail"]
        assert _SENT not in self.body
        return self.status, told["code"]


@dataclass(frozen=True)
class Line:
    """One connection, on which anything can be said."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self, *, body: bool = True) -> Answer:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            content = await self.reader.readexactly(int(headers.get("content-length", 0))) if body else b""
        return Answer(int(head[0].split()[1]), headers, content)

    async def rest(self) -> bytes:
        """All that still comes until the other side closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def line(edge: World) -> AsyncIterator[Line]:
    host, _, port = edge.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def _head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def _post(*headers: str, body: bytes = b"") -> bytes:
    return _head("POST", _LOGIN, "Content-Type: application/json", *headers) + body


def _quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def _told(code: str) -> float:
    return REGISTRY.get_sample_value("boxoffice_http_problems_total", {"code": code}) or 0


_CHUNKED = "Transfer-Encoding: chunked"
_BROKEN: dict[str, bytes] = {
    "method": b"G@T /" + _SENT + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "version": b"GET /" + _SENT + b" HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00" + _SENT + b"\r\n\r\n",
    "no host": b"GET /" + _SENT + b" HTTP/1.1\r\n\r\n",
    "bytes in the path": b"GET /\xff" + _SENT + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "host of the address": b"GET http://[" + _SENT + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "folded header": _head("GET", "/livez", "X-A: b\r\n " + _SENT.decode()),
    "name of a header": _head("GET", "/livez", f"X {_SENT.decode()}: a"),
    "many headers": _head("GET", "/livez", *(f"X-{number}: {_SENT.decode()}" for number in range(200))),
    "negative length": _post("Content-Length: -1"),
    "two lengths": _post("Content-Length: 2", "Content-Length: 3", body=b"{}"),
    "length and chunks": _post("Content-Length: 2", _CHUNKED, body=b"0\r\n\r\n"),
    "chunk": _post(_CHUNKED, body=_SENT + b"\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("request_", _BROKEN.values(), ids=_BROKEN)
async def test_what_is_not_http(edge: World, caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    before = _told("MALFORMED_REQUEST")
    async with line(edge) as client:
        await client.say(request_)
        answer = await client.hear()
        assert answer.problem() == (400, "MALFORMED_REQUEST")
        assert await client.rest() == b""
    assert _told("MALFORMED_REQUEST") == before + 1
    assert _quiet(caplog)


@pytest.mark.parametrize(
    "request_",
    [
        _head("GET", "/" + "a" * 9000),
        _head("GET", "/livez", "X-A: " + "a" * 9000),
        _head("GET", "/livez", "X" * 9000 + ": a"),
    ],
    ids=["address", "header", "name of a header"],
)
async def test_what_is_too_long(edge: World, caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async with line(edge) as client:
        await client.say(request_)
        assert (await client.hear()).problem() == (431, "HEADERS_TOO_LARGE")
        assert await client.rest() == b""
    assert _quiet(caplog)


async def test_each_refusal_has_an_id_of_its_own(edge: World) -> None:
    async with line(edge) as client:
        await client.say(_head("GET", "/livez"))
        answers = [await client.hear()]
        await client.say(_BROKEN["method"])
        answers.append(await client.hear())
    assert answers[1].problem() == (400, "MALFORMED_REQUEST")
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len({*ids, ""}) == 3
    assert json.loads(answers[1].body)["trace_id"] == ids[1]


@pytest.mark.parametrize("path", [_LOGIN, "/nowhere"])
async def test_an_expectation_that_nobody_meets(edge: World, path: str) -> None:
    async with line(edge) as client:
        await client.say(_head("GET", path, f"Expect: {_SENT.decode()}"))
        answer = await client.hear()
    assert answer.problem() == (400, "INVALID_ARGUMENT")
    assert json.loads(answer.body)["errors"] == [{"field": "Expect", "detail": "may only be 100-continue"}]


async def test_a_client_may_ask_before_it_sends_a_body(edge: World) -> None:
    edge.backend.scripts["Login"] = lambda _request: auth_pb.LoginResponse()
    async with line(edge) as client:
        await client.say(_post(f"Content-Length: {len(_CREDENTIALS)}", "Expect: 100-continue"))
        assert (await client.hear()).status == 100
        await client.say(_CREDENTIALS)
        assert (await client.hear()).status == 200


_COMPRESSED = {
    "sound": ("gzip", gzip.compress(_CREDENTIALS)),
    "no gzip": ("gzip", b"abcd"),
    "ends early": ("gzip", gzip.compress(_CREDENTIALS)[:12]),
    "no deflate": ("deflate", b"\xff\xff\xff\xff"),
    "brotli": ("br", b"abcd"),
    "bomb": ("GZIP", gzip.compress(b" " * 10_000_000)),
    "unknown": (_SENT.decode(), _CREDENTIALS),
}


@pytest.mark.parametrize(("encoding", "body"), _COMPRESSED.values(), ids=_COMPRESSED)
async def test_compressed_bodies_are_not_taken(
    edge: World, caplog: pytest.LogCaptureFixture, encoding: str, body: bytes
) -> None:
    async with line(edge) as client:
        await client.say(_post(f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}", body=body))
        assert (await client.hear()).problem() == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert edge.backend.called("Login") == []
    assert _quiet(caplog)


async def test_a_body_that_says_that_it_is_not_compressed_is_taken(edge: World) -> None:
    edge.backend.scripts["Login"] = lambda _request: auth_pb.LoginResponse()
    async with line(edge) as client:
        length = f"Content-Length: {len(_CREDENTIALS)}"
        await client.say(_post("Content-Encoding: identity", length, body=_CREDENTIALS))
        assert (await client.hear()).status == 200


@pytest.mark.parametrize("declared", ["Content-Length: 100", _CHUNKED])
@pytest.mark.parametrize("half_closes", [False, True])
async def test_who_hangs_up_in_the_middle_of_a_body_is_no_fault_of_ours(
    edge: World, caplog: pytest.LogCaptureFixture, declared: str, half_closes: bool
) -> None:
    before, faults = _told("MALFORMED_REQUEST"), _told("INTERNAL")

    async def counted() -> bool:
        return _told("MALFORMED_REQUEST") == before + 1

    async with line(edge) as client:
        await client.say(_post(declared, body=b"5\r\n{"))
        # Answered first, on another connection: the request above has been seen.
        await edge.answer("GET", "/livez")
        if half_closes:
            client.writer.write_eof()
            await client.rest()
    await eventually(counted)
    assert _told("INTERNAL") == faults
    assert _quiet(caplog)


@pytest.mark.parametrize(
    ("declared", "more"),
    [("Content-Length: 100", b""), ("Content-Length: 100", b" "), (_CHUNKED, _SENT + b"\r\n")],
    ids=["nothing", "too little", "a broken chunk"],
)
async def test_a_body_that_does_not_come(
    edge: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, declared: str, more: bytes
) -> None:
    monkeypatch.setattr("edge.transcode.requests._BODY_SECONDS", 0.2)
    async with line(edge) as client:
        await client.say(_post(declared, body=b"2\r\n{}\r\n"))
        await edge.answer("GET", "/livez")
        await client.say(more)
        answer = await client.hear()
    assert answer.problem() == (408, "BODY_TIMEOUT")
    assert answer.headers["connection"] == "close"
    assert edge.backend.called("Login") == []
    assert _quiet(caplog)


async def test_a_body_may_come_in_pieces(edge: World) -> None:
    edge.backend.scripts["Login"] = lambda _request: auth_pb.LoginResponse()
    async with line(edge) as client:
        await client.say(_post(f"Content-Length: {len(_CREDENTIALS)}", body=_CREDENTIALS[:5]))
        await edge.answer("GET", "/livez")
        await client.say(_CREDENTIALS[5:])
        assert (await client.hear()).status == 200


@pytest.mark.parametrize("before", [0, 1], ids=["first request", "second request"])
async def test_who_does_not_come_to_the_end_of_the_headers_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr("edge.server._KEEP_ALIVE_SECONDS", 0.3)
    async with world() as edge, line(edge) as client:
        for _ in range(before):
            await client.say(_head("GET", "/livez"))
            assert (await client.hear()).status == 200
        await client.say(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ")
        assert await client.rest() == b""


async def test_a_fault_outside_of_the_middlewares(
    edge: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ValueError(_SENT.decode())

    monkeypatch.setattr("edge.middlewares.context._child", explode)
    async with line(edge) as client:
        await client.say(_head("GET", "/livez"))
        assert (await client.hear()).problem() == (500, "INTERNAL")
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["request failed"]


# Every kind of route, with what it allows.
_KINDS = {
    "public": ("/api/events", {"GET", "HEAD"}),
    "of an account": ("/api/auth/me", {"GET", "HEAD"}),
    "with two methods": ("/api/events/1/queue/policy", {"GET", "HEAD", "PATCH"}),
    "stream": ("/api/events/1/queue/stream", {"GET"}),
    "mutation": ("/api/tickets/reserve", {"POST"}),
    "document": ("/api/openapi.json", {"GET", "HEAD"}),
    "explorer": ("/docs", {"GET", "HEAD"}),
    "health": ("/livez", {"GET", "HEAD"}),
    "page": ("/", {"GET", "HEAD"}),
    "asset": ("/assets/style.css", {"GET", "HEAD"}),
}


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "BREW"])
@pytest.mark.parametrize(("path", "allowed"), _KINDS.values(), ids=_KINDS)
async def test_methods_that_a_route_does_not_take(edge: World, method: str, path: str, allowed: set[str]) -> None:
    async with line(edge) as client:
        await client.say(_head(method, path))
        answer = await client.hear()
        # Nobody knows the method: HTTP's parser does not let it in.
        if method == "BREW":
            assert answer.problem() == (400, "MALFORMED_REQUEST")
            return
        assert answer.problem() == (405, "METHOD_NOT_ALLOWED")
        assert set(answer.headers["allow"].split(",")) == allowed


def _operator() -> str:
    return f"Authorization: Bearer {token(1, 'operator')}"


@pytest.mark.parametrize(("path", "allowed"), _KINDS.values(), ids=_KINDS)
async def test_head_is_get_without_a_body(edge: World, path: str, allowed: set[str]) -> None:
    edge.backend.scripts["ListEvents"] = lambda _request: event_pb.ListEventsResponse()
    async with line(edge) as client:
        await client.say(_head("HEAD", path, _operator()))
        without = await client.hear(body=False)
        if "HEAD" not in allowed:
            assert without.status == 405
            assert set(without.headers["allow"].split(",")) == allowed
        else:
            # On the same connection: a body of the first answer would be the beginning of the second.
            await client.say(_head("GET", path, _operator()))
            answer = await client.hear()
            assert (without.status, without.headers.get("content-length")) == (
                answer.status,
                answer.headers["content-length"],
            )
            assert int(answer.headers["content-length"]) == len(answer.body) > 0
        await client.say(_head("GET", "/livez", "Connection: close"))
        assert (await client.hear()).body == b'{"status":"alive"}'
        assert await client.rest() == b""


async def test_bytes_in_the_query_that_are_no_text(edge: World) -> None:
    edge.backend.scripts["ListEvents"] = lambda _request: event_pb.ListEventsResponse()
    async with line(edge) as client:
        await client.say(_head("GET", "/api/events?page_token=%ff%fe"))
        answer: Any = await client.hear()
    assert answer.status < 500
