"""Server-streaming RPCs as server-sent events."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from boxoffice.inventory.v1 import booking_service_pb2 as pb
from prometheus_client import REGISTRY

from edge import streams
from services.common.errors import BoxofficeError
from tests.edge.world import World, bearer, events, world
from tests.support import eventually

_PATH = "/api/tickets/status/stream?booking_id=b"


class _NotFound(BoxofficeError):
    reason = "BOOKING_NOT_FOUND"


def _update(state: Any) -> pb.WatchBookingResponse:
    return pb.WatchBookingResponse(booking=pb.Booking(booking_id="b", state=state))


async def _two(_request: Any) -> AsyncIterator[pb.WatchBookingResponse]:
    yield _update(pb.Booking.STATE_PENDING)
    yield _update(pb.Booking.STATE_RESERVED)


async def _endless(_request: Any) -> AsyncIterator[pb.WatchBookingResponse]:
    yield _update(pb.Booking.STATE_PENDING)
    await asyncio.sleep(60)


async def test_messages_are_events(edge: World) -> None:
    edge.backend.scripts["WatchBooking"] = _two
    async with edge.request("GET", _PATH, headers=bearer()) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        told = [event async for event in events(response)]
    assert [(event.event, event.id) for event in told] == [("message", "1"), ("message", "2")]
    assert [json.loads(event.data)["booking"]["state"] for event in told] == ["PENDING", "RESERVED"]


async def test_each_message_is_sent_when_it_comes(edge: World) -> None:
    edge.backend.scripts["WatchBooking"] = _endless
    async with edge.request("GET", _PATH, headers=bearer()) as response, asyncio.timeout(5):
        assert (await anext(events(response))).id == "1"


async def test_an_error_before_the_first_message_is_a_problem(edge: World) -> None:
    async def missing(request: Any) -> AsyncIterator[Any]:
        if request.booking_id == "b":
            raise _NotFound
        yield

    edge.backend.scripts["WatchBooking"] = missing
    status, code, _ = await edge.problem("GET", _PATH, headers=bearer())
    assert (status, code) == (404, "BOOKING_NOT_FOUND")


async def test_an_error_after_it_is_the_last_event(edge: World) -> None:
    async def breaks(_request: Any) -> AsyncIterator[Any]:
        yield _update(pb.Booking.STATE_PENDING)
        raise _NotFound("it is gone")

    edge.backend.scripts["WatchBooking"] = breaks
    async with edge.request("GET", _PATH, headers=bearer()) as response:
        told = [event async for event in events(response)]
    assert [event.event for event in told] == ["message", "problem"]
    problem = json.loads(told[1].data)
    assert (problem["code"], problem["detail"], problem["status"]) == ("BOOKING_NOT_FOUND", "it is gone", 404)


@pytest.mark.parametrize("headers", [{}, bearer(lives=-1)])
async def test_strangers_see_no_stream(edge: World, headers: dict[str, str]) -> None:
    status, _, _ = await edge.problem("GET", _PATH, headers=headers)
    assert status == 401
    assert edge.backend.called("WatchBooking") == []


async def test_head_cannot_follow(edge: World) -> None:
    status, _, _ = await edge.answer("HEAD", _PATH, headers=bearer())
    assert status == 405


def _open_streams() -> float:
    return REGISTRY.get_sample_value("boxoffice_http_streams_open", {"route": "/api/tickets/status/stream"}) or 0


async def test_a_client_that_goes_ends_the_call(edge: World) -> None:
    edge.backend.scripts["WatchBooking"] = _endless
    async with edge.request("GET", _PATH, headers=bearer()) as response:
        await anext(events(response))
        assert _open_streams() == 1
        response.close()
    await eventually(lambda: edge.backend.cancelled == ["WatchBooking"], timedelta(seconds=5))
    await eventually(lambda: _open_streams() == 0)


async def test_a_client_that_goes_before_the_first_message_ends_the_call(edge: World) -> None:
    async def silent(_request: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(60)
        yield

    edge.backend.scripts["WatchBooking"] = silent
    call = asyncio.create_task(edge.answer("GET", _PATH, headers=bearer()))
    await eventually(lambda: edge.backend.called("WatchBooking"))
    call.cancel()
    await eventually(lambda: edge.backend.cancelled == ["WatchBooking"], timedelta(seconds=5))


async def test_of_too_many_streams_of_one_account_the_oldest_end(edge: World) -> None:
    edge.backend.scripts["WatchBooking"] = _endless
    async with AsyncExitStack() as stack, asyncio.timeout(10):

        async def opened(user_id: int) -> AsyncIterator[Any]:
            following = events(await stack.enter_async_context(edge.request("GET", _PATH, headers=bearer(user_id))))
            await anext(following)
            return following

        other = await opened(2)
        own = [await opened(1) for _ in range(streams.MOST_STREAMS + 2)]
        # Whole, not broken off: aiohttp would raise for the latter.
        for ended in own[:2]:
            assert [event async for event in ended] == []
        await eventually(lambda: _open_streams() == streams.MOST_STREAMS + 1)
        for open_still in (other, *own[2:]):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(open_still)
    await eventually(lambda: _open_streams() == 0)


async def test_the_oldest_that_nobody_reads_is_hung_up_on(edge: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_STREAMS", 1)

    async def much(_request: Any) -> AsyncIterator[pb.WatchBookingResponse]:
        while True:
            yield pb.WatchBookingResponse(booking=pb.Booking(booking_id="b" * 1_000_000))

    edge.backend.scripts["WatchBooking"] = much
    host, port = edge.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        head = f"GET {_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n\r\n"
        await loop.sock_sendall(client, head.encode())
        await eventually(lambda: _open_streams() == 1)
        await asyncio.sleep(0.3)
        edge.backend.scripts["WatchBooking"] = _endless
        async with edge.request("GET", _PATH, headers=bearer()) as response:
            await anext(events(response))
            await eventually(lambda: _open_streams() == 1)
            # The connection is gone, with what was not read: nobody has waited to send that, and the end of the body.
            last = b""
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    while some := await loop.sock_recv(client, 1_000_000):
                        last = some
            assert not last.endswith(b"0\r\n\r\n")


async def test_quiet_streams_are_kept_open(edge: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.1)

    async def silent(_request: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(60)
        yield

    edge.backend.scripts["WatchBooking"] = silent
    async with edge.request("GET", _PATH, headers=bearer()) as response, asyncio.timeout(10):
        lines = [await response.content.readline() for _ in range(5)]
    assert lines == [b"retry: 2000\n", b"\n", b": still here\n", b"\n", b": still here\n"]


async def test_a_drain_ends_streams_whole() -> None:
    async with world(drain_seconds=5) as edge:
        edge.backend.scripts["WatchBooking"] = _endless
        async with edge.request("GET", _PATH, headers=bearer()) as response, asyncio.timeout(5):
            following = events(response)
            await anext(following)
            edge.lifecycle.draining.set()
            # The end of the body, not a broken connection: aiohttp would raise for the latter.
            assert [event async for event in following] == []
        await eventually(lambda: edge.backend.cancelled == ["WatchBooking"])
