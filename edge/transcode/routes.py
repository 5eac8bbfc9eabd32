"""Operations → HTTP handlers: one function per route, put together once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from google.protobuf.message import Message
from grpc import aio

from edge.middlewares import authentication, idempotency
from edge.middlewares.context import Handler
from edge.streams import Streams, relay
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
    # What answers in place of the ordinary handler, by full name of the RPC.
    overrides: "Overrides" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One operation with all that a handler of it needs."""

    operation: Operation
    # Authenticates, then reads the request.
    read: ReadRequest
    channel: aio.Channel
    dumpers: DumperCompiler
    streams: Streams


HandlerFactory = Callable[[Prepared], Handler]
Overrides = Mapping[str, HandlerFactory]


def routes(contract: Contract, backends: Backends) -> Iterator[web.RouteDef]:
    """The routes of every operation. Raises ContractError when one asks for something that is not served."""
    parsers, dumpers = ParserCompiler(), DumperCompiler()
    # Fixed paths first: "/events/latest" is not the event "latest".
    for operation in sorted(contract.operations, key=lambda operation: ("{" in operation.path, operation.path)):
        read = _guarded(operation, backends.verifier, compile_reader(operation, parsers))
        prepared = Prepared(operation, read, backends.channels[operation.part], dumpers, backends.streams)
        handler = backends.overrides.get(operation.rpc.full_name, ordinary)(prepared)
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


def ordinary(prepared: Prepared) -> Handler:
    """The handler of an operation about which the edge knows nothing but its contract."""
    return _streaming(prepared) if prepared.operation.rpc.server_streaming else _unary(prepared)


def _unary(prepared: Prepared) -> Handler:
    read, call = prepared.read, calls.compile_unary(prepared.operation, prepared.channel)
    write = compile_writer(prepared.operation, prepared.dumpers)

    async def handle(request: web.Request) -> web.StreamResponse:
        return write(request, await call(await read(request)))

    return handle


def _streaming(prepared: Prepared) -> Handler:
    operation, read = prepared.operation, prepared.read
    open_stream = calls.compile_stream(operation.rpc, prepared.channel)
    dump = prepared.dumpers.compile(operation.rpc.output_type)
    route = plain_path(operation.path)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await prepared.streams.serve(request, relay(open_stream(await read(request)), dump), route)

    return handle
