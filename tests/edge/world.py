"""The edge as a process has it, in front of one real gRPC server whose answers a test scripts, method by method."""

import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import aiohttp
import grpc
import jwt
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from edge import app
from edge.settings import settings_for
from edge.transcode import contract
from edge.transcode.contract import Contract, grpc_path, message_class
from services.common import errors
from services.common.lifecycle import Lifecycle, running

# What one method answers: a function of the request and, where it wants it, of the gRPC context.
Script = Callable[..., Any]

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
FORGED_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def token(user_id: int = 7, *roles: str, lives: float = 86_400, key: rsa.RSAPrivateKey = _KEY, **claims: object) -> str:
    """An access token as auth issues it."""
    now = time.time()
    known = {"iss": "boxoffice", "sub": str(user_id), "sid": "s", "roles": roles or ("buyer",)}
    return jwt.encode({**known, "iat": now, "exp": now + lives, **claims}, key, "RS256", {"kid": "k1"})


def bearer(*args: Any, **kwargs: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(*args, **kwargs)}"}


def _jwks(_request: Message) -> auth_pb.GetJwksResponse:
    key = jwt.algorithms.RSAAlgorithm.to_jwk(_KEY.public_key(), as_dict=True)
    told = auth_pb.Jwk(kty="RSA", kid="k1", use="sig", alg="RS256", n=key["n"], e=key["e"])
    return auth_pb.GetJwksResponse(keys=[told])


@dataclass
class Backend:
    """All services behind one port. A method without a script answers UNIMPLEMENTED, as gRPC does."""

    contract: Contract
    scripts: dict[str, Script] = field(default_factory=lambda: {"GetJwks": _jwks})
    # Every call: (method, request, metadata).
    calls: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    # Streams that were cancelled by the edge.
    cancelled: list[str] = field(default_factory=list)
    servicer: health.aio.HealthServicer = field(default_factory=health.aio.HealthServicer)
    server: aio.Server | None = None
    port: int = 0

    def called(self, method: str) -> list[Any]:
        return [request for name, request, _ in self.calls if name == method]

    def metadata(self, method: str) -> dict[str, Any]:
        return next(metadata for name, _, metadata in reversed(self.calls) if name == method)

    async def start(self) -> None:
        self.server = aio.server()
        self.server.add_generic_rpc_handlers((self,))  # type: ignore[arg-type] # quacks like one
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, self.server)
        await self.servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """Finds the handler of a method, as grpc.GenericRpcHandler does."""
        rpc = _methods(self.contract).get(call.method)
        if rpc is None or rpc.name not in self.scripts:
            return None
        make = grpc.unary_stream_rpc_method_handler if rpc.server_streaming else grpc.unary_unary_rpc_method_handler
        run = self._stream if rpc.server_streaming else self._unary
        return make(
            run(rpc.name),
            request_deserializer=message_class(rpc.input_type).FromString,
            response_serializer=message_class(rpc.output_type).SerializeToString,
        )

    def _unary(self, name: str) -> Any:
        async def answer(request: Message, context: Any) -> Any:
            try:
                response = self._run(name, request, context)
                return await response if inspect.isawaitable(response) else response
            except Exception as error:  # noqa: BLE001 - told as services tell it
                await context.abort_with_status(rpc_status.to_status(errors.to_status(error)))

        return answer

    def _stream(self, name: str) -> Any:
        async def answer(request: Message, context: Any) -> AsyncIterator[Any]:
            try:
                async for response in self._run(name, request, context):
                    yield response
            except GeneratorExit:
                self.cancelled.append(name)
                raise
            except BaseException as error:
                if not isinstance(error, Exception):
                    self.cancelled.append(name)
                    raise
                await context.abort_with_status(rpc_status.to_status(errors.to_status(error)))

        return answer

    def _run(self, name: str, request: Message, context: Any) -> Any:
        self.calls.append((name, request, dict(context.invocation_metadata())))
        script = self.scripts[name]
        return script(request, context) if len(inspect.signature(script).parameters) > 1 else script(request)


def _methods(served: Contract) -> dict[str, Any]:
    services = {operation.rpc.containing_service.full_name for operation in served.operations}
    services.add("boxoffice.auth.v1.AuthService")
    pool = descriptor_pool.Default()
    return {grpc_path(rpc): rpc for name in services for rpc in pool.FindServiceByName(name).methods}


@dataclass
class World:
    """A running edge, its backend, and a client."""

    backend: Backend
    client: aiohttp.ClientSession
    lifecycle: Lifecycle
    url: str

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        return self.client.request(method, self.url + path, **kwargs)

    async def answer(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, JSON (None when there is none) and the response."""
        async with self.request(method, path, **kwargs) as response:
            body = await response.read()
            return response.status, await response.json(content_type=None) if body else None, response

    async def problem(self, method: str, path: str, **kwargs: Any) -> tuple[int, str, dict[str, Any]]:
        """Status, code and document of an answer that must be a problem."""
        status, told, response = await self.answer(method, path, **kwargs)
        assert response.content_type == "application/problem+json", (status, told)
        assert told["status"] == status
        return status, told["code"], told


@cache
def _own_contract() -> Contract:
    return contract.load(contract.read_descriptors())


def contract_of(*more: descriptor_pb2.FileDescriptorProto) -> Contract:
    """Our contract, and more files if need be."""
    if not more:
        return _own_contract()
    files = contract.read_descriptors()
    files.file.extend(more)
    return contract.load(files)


@asynccontextmanager
async def world(served: Contract | None = None, **settings: Any) -> AsyncIterator[World]:
    served = served or contract_of()
    backend = Backend(served)
    await backend.start()
    try:
        # Streams hold their connections: as many as a test wants.
        connector = aiohttp.TCPConnector(limit=0)
        async with _edge(served, backend, settings) as lifecycle, aiohttp.ClientSession(connector=connector) as client:
            port = lifecycle.addresses["http_port"]
            yield World(backend, client, lifecycle, f"http://127.0.0.1:{port}")
    finally:
        await backend.stop()


@asynccontextmanager
async def _edge(served: Contract, backend: Backend, settings: dict[str, Any]) -> AsyncIterator[Lifecycle]:
    parts = app.backends_of(served)
    targets = {f"{part}_target": f"127.0.0.1:{backend.port}" for part in parts}
    made = settings_for(parts)(**{"http_listen": "127.0.0.1:0", "drain_seconds": 2, **targets, **settings})

    async def wire(lifecycle: Lifecycle) -> None:
        await app.wire(lifecycle, made, served)

    async with running(wire, made.drain_seconds) as lifecycle:
        yield lifecycle


@dataclass
class Event:
    """One server-sent event."""

    event: str = "message"
    id: str = ""
    data: str = ""


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Server-sent events as a client sees them, by the rules of the standard that the edge uses."""
    event = Event()
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if not line and event.data:
            yield event
            event = Event()
        name, _, value = line.partition(": ")
        if name in {"event", "id", "data"}:
            setattr(event, name, value)
