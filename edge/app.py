"""The edge, put together: the only place that constructs anything."""

from collections.abc import Iterable, Mapping
from typing import Final

import orjson
from aiohttp import web
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge import explorer, server, static
from edge.client_address import ClientAddresses
from edge.line import overrides
from edge.middlewares import cors, headers
from edge.middlewares.context import context
from edge.middlewares.problem import problem
from edge.settings import EdgeSettings
from edge.streams import Streams
from edge.transcode import openapi
from edge.transcode.contract import Contract
from edge.transcode.requests import RAW_LIMIT
from edge.transcode.routes import Backends, Overrides, routes
from services.common import grpc_channel
from services.common.health import Check, Health
from services.common.lifecycle import Lifecycle
from services.common.tokens import TokenVerifier, jwks_from_auth

# Who issues the access tokens, and publishes the keys that verify them.
_AUTH: Final = "auth"
# Who runs the lines.
_QUEUE: Final = "queue"
_UNAVAILABLE: Final = 503


async def wire(lifecycle: Lifecycle, settings: EdgeSettings, contract: Contract) -> None:
    """Connects to every backend that the contract names, and serves."""
    targets = settings.targets(backends_of(contract))
    channels = {part: await lifecycle.enter(grpc_channel.connect(target)) for part, target in targets.items()}
    for part, channel in channels.items():
        # One that goes away later costs its own routes; as a condition it would take every edge out of service at once.
        lifecycle.ready_when(part, serving(channel), once=True)
    streams = Streams(lifecycle.draining)
    lifecycle.background("streams", streams.sweep)
    verifier = TokenVerifier(jwks_from_auth(channels[_AUTH]))
    backends = Backends(channels, verifier, streams, _line(lifecycle, contract, channels))
    app = application(contract, backends, lifecycle.health, settings)
    port = await server.listen(lifecycle, settings.http_listen, app, drain_seconds=settings.drain_seconds)
    lifecycle.addresses["http_port"] = port


def _line(lifecycle: Lifecycle, contract: Contract, channels: Mapping[str, aio.Channel]) -> Overrides:
    """What is told from the digests of lines. Closed before the channel that the digests come through."""
    lines = overrides.lines_of(contract, channels[_QUEUE])
    lifecycle.background("lines", lines.sweep)
    lifecycle.defer(lines.close)
    return overrides.overrides_of(lines)


def backends_of(contract: Contract) -> frozenset[str]:
    """The parts that the edge talks to: those of the contract, and the one that knows whose tokens are good."""
    return contract.parts | {_AUTH}


def serving(channel: aio.Channel) -> Check:
    """A readiness check: the process behind a channel says that it is serving."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def check() -> None:
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest())
        except aio.AioRpcError as error:
            # One word: the whole of it would fill the log while a backend is away.
            raise ConnectionError(error.code().name) from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ConnectionError("NOT_SERVING")

    return check


def application(contract: Contract, backends: Backends, health: Health, settings: EdgeSettings) -> web.Application:
    """The aiohttp application: middlewares in their order, and every route."""
    origins = settings.allowed_origins
    addresses = ClientAddresses(settings.proxies)
    middlewares = [context(addresses), *([cors.cors(origins)] if origins else []), problem]
    app = web.Application(middlewares=middlewares, client_max_size=RAW_LIMIT)
    app.add_routes(list(routes(contract, backends)))
    app.add_routes(list(_own_routes(contract, health)))
    app.add_routes(list(static.page_routes()))
    app.on_response_prepare.append(headers.add_headers)
    if origins:
        app.on_response_prepare.append(cors.add_headers)
    return app


def _own_routes(contract: Contract, health: Health) -> Iterable[web.RouteDef]:
    """What is the edge's own: the contract as documents, and health."""
    document = openapi.document(contract)
    described = static.Document(orjson.dumps(document), "application/json")
    page = explorer.page(document, openapi.descriptions(contract))
    explored = static.Document(page, "text/html; charset=utf-8", explorer.content_security_policy())

    async def livez(_request: web.Request) -> web.Response:
        """This process answers. A backend that is away is no reason to restart it."""
        return _health({"status": "alive"}, 200)

    async def readyz(_request: web.Request) -> web.Response:
        """Every backend has answered once, and the process is not draining. Names those that do not answer now."""
        if health.serving:
            return _health({"status": "ready", "degraded": health.degraded}, 200)
        return _health({"status": "not ready", "failing": health.failing}, _UNAVAILABLE)

    return [
        web.get("/api/openapi.json", described.handle),
        web.get("/docs", explored.handle),
        web.get("/livez", livez),
        web.get("/readyz", readyz),
    ]


def _health(told: Mapping[str, object], status: int) -> web.Response:
    headers = {"Cache-Control": "no-store", "Content-Type": "application/json"}
    return web.Response(body=orjson.dumps(told), status=status, headers=headers)
