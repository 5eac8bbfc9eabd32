"""The handlers that take the place of the ordinary ones: what comes in and what goes out is as the contract has it."""

from typing import Any, Final

from aiohttp import web
from boxoffice.queue.v1 import queue_service_pb2 as pb
from grpc import aio

from edge.line.lines import Lines
from edge.line.lookups import Lookups
from edge.middlewares.context import Handler
from edge.streams import EventStream, relay
from edge.transcode import calls
from edge.transcode.contract import Contract, plain_path
from edge.transcode.responses import cache_control, compile_writer, success_status
from edge.transcode.routes import Overrides, Prepared
from services.common.caller import current_caller

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["QueueService"]
_GET_PLACE: Final = f"{_SERVICE.full_name}.GetPlace"
# What changes the caller's own place.
_CHANGES: Final = ("JoinQueue", "ClaimPlace", "LeaveQueue")


def lines_of(contract: Contract, channel: aio.Channel) -> Lines:
    """The lines behind a channel to queue."""
    (look,) = (operation for operation in contract.operations if operation.rpc.full_name == _GET_PLACE)
    seconds = calls.deadline_of(look).total_seconds()
    lookups = Lookups(calls.compile_batch(look, channel), seconds=seconds, name=look.name)
    return Lines(calls.compile_stream(_SERVICE.methods_by_name["WatchDigest"], channel), lookups)


def overrides_of(lines: Lines) -> Overrides:
    """What answers GetPlace and WatchPlace from digests, and hears of what changes a place."""

    def observing(prepared: Prepared) -> Handler:
        return _observing(prepared, lines)

    return {
        _GET_PLACE: lambda prepared: _get_place(prepared, lines),
        f"{_SERVICE.full_name}.WatchPlace": lambda prepared: _watch_place(prepared, lines),
        **{f"{_SERVICE.full_name}.{name}": observing for name in _CHANGES},
    }


def _get_place(prepared: Prepared, lines: Lines) -> Handler:
    operation, read = prepared.operation, prepared.read
    status = success_status(operation)
    headers = {"Content-Type": "application/json", "Cache-Control": cache_control(operation)}

    async def handle(request: web.Request) -> web.StreamResponse:
        asked: Any = await read(request)
        body = await lines.place(asked.event_id, current_caller().user_id)
        return web.Response(body=body, status=status, headers=headers)

    return handle


def _watch_place(prepared: Prepared, lines: Lines) -> Handler:
    operation, read = prepared.operation, prepared.read
    open_stream = calls.compile_stream(operation.rpc, prepared.channel)
    dump = prepared.dumpers.compile(operation.rpc.output_type)
    route = plain_path(operation.path)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked: Any = await read(request)
        user_id = current_caller().user_id

        async def follow(stream: EventStream) -> None:
            found = await lines.feed(asked.event_id, user_id)
            if found is None:
                await relay(open_stream(asked), dump)(stream)
            else:
                feed, known = found
                await feed.follow(stream, known)

        return await prepared.streams.serve(request, follow, route)

    return handle


def _observing(prepared: Prepared, lines: Lines) -> Handler:
    read, call = prepared.read, calls.compile_unary(prepared.operation, prepared.channel)
    write = compile_writer(prepared.operation, prepared.dumpers)
    tells_place = "place" in prepared.operation.rpc.output_type.fields_by_name

    async def handle(request: web.Request) -> web.StreamResponse:
        asked: Any = await read(request)
        user_id = current_caller().user_id
        with lines.change(asked.event_id, user_id) as change:
            response: Any = await call(asked)
            if tells_place:
                change.place = response.place
        return write(request, response)

    return handle
