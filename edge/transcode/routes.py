"""Operations → HTTP handlers: one function per route, put together once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from google.protobuf.message import Message
from grpc import aio

from edge.middlewares import authentication, idempotency
from edge.middlewares.context import Handler
from edge.streams import Streams
from edge.transcode import calls
from edge.transcode.contract import Contract, Operation, plain_path, route_of
from edge.transcode.dump import DumperCompiler
from edge.transcode.parse import ParserCompiler
from edge.transcode.requests import ReadRequest, compile_reader
from edge.transcode.responses import compile_writer
from services.common.tokens import TokenVerifier

_GET: Final = "GET"


@dataclass(frozen=True, slots=True)
class Backends:
    """What the routes of a contract call."""

    # By part: "inventory".
    channels: Mapping[str, aio.Channel]
    verifier: TokenVerifier
    streams: Streams


def routes(contract: Contract, backends: Backends) -> Iterator[web.RouteDef]:
    """The routes of every operation. Raises ContractError when one asks for something that is not served."""
    parsers, dumpers = ParserCompiler(), DumperCompiler()
    # Fixed paths first: "/events/latest" is not the event "latest".
    for operation in sorted(contract.operations, key=lambda operation: ("{" in operation.path, operation.path)):
        read = _guarded(operation, backends.verifier, compile_reader(operation, parsers))
        channel = backends.channels[operation.part]
        make = _streaming if operation.rpc.server_streaming else _unary
        handler = make(operation, channel, dumpers, read, backends.streams)
        # What aiohttp answers to HEAD by running the handler must come to an end.
        options = {"allow_head": not operation.rpc.server_streaming} if operation.verb == _GET else {}
        yield web.route(operation.verb, route_of(operation.path), handler, **options)


def _guarded(operation: Operation, verifier: TokenVerifier, read: ReadRequest) -> ReadRequest:
    """Reading that begins with what must hold before a request is looked at."""
    authenticate = authentication.guard(operation.policy.access, verifier)
    if authenticate is None and not operation.needs_key:
        return read
    check_key: Callable[[web.Request], None] | None = idempotency.require_key if operation.needs_key else None

    async def read_guarded(request: web.Request) -> Message:
        if authenticate is not None:
            await authenticate(request)
        if check_key is not None:
            check_key(request)
        return await read(request)

    return read_guarded


def _unary(
    operation: Operation, channel: aio.Channel, dumpers: DumperCompiler, read: ReadRequest, _streams: Streams
) -> Handler:
    call, write = calls.compile_unary(operation, channel), compile_writer(operation, dumpers)

    async def handle(request: web.Request) -> web.StreamResponse:
        return write(request, await call(await read(request)))

    return handle


def _streaming(
    operation: Operation, channel: aio.Channel, dumpers: DumperCompiler, read: ReadRequest, streams: Streams
) -> Handler:
    open_stream, dump = calls.compile_stream(operation, channel), dumpers.compile(operation.rpc.output_type)
    route = plain_path(operation.path)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await streams.serve(request, open_stream(await read(request)), dump, route)

    return handle
