"""The gRPC server of a service: its servicers, health, reflection, and the interceptors around them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.health import LIVENESS
from services.common.interceptors import interceptors
from services.common.lifecycle import Lifecycle
from services.common.policies import Method, methods_of
from services.common.settings import CommonSettings
from services.common.tokens import TokenVerifier

# The generated `add_…Servicer_to_server`, and the servicer to add.
Registration = tuple[Callable[[Any, Any], None], object]

# A batch of 256 reservations is about 100 KB, a seat map of 20,000 seats about 50 KB.
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # Two processes on one port would share its calls by accident; the second shall fail instead.
    ("grpc.so_reuseport", 0),
    # Dead peers are noticed within 40 s; live ones may ask as often as our own channels do.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_log = logging.getLogger(__name__)


class _Names:
    """Stands in for a server to learn which services a registration adds."""

    def __init__(self) -> None:
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        del handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        del handlers
        self.services.append(service)


def _services(registrations: Sequence[Registration]) -> list[str]:
    names = _Names()
    for add, servicer in registrations:
        add(servicer, names)
    return names.services


async def serve(
    lifecycle: Lifecycle,
    settings: CommonSettings,
    registrations: Sequence[Registration],
    verifier: TokenVerifier | None,
) -> int:
    """Serves on `settings.grpc_listen` from now on and returns the bound port; drains with the lifecycle.

    Without a verifier, only PUBLIC and INTERNAL methods can be called. Raises RuntimeError when the port is taken.
    """
    services = _services(registrations)
    methods: Mapping[str, Method] = {path: method for name in services for path, method in methods_of(name).items()}
    server = aio.server(interceptors=interceptors(methods, verifier), options=_OPTIONS)
    for add, servicer in registrations:
        add(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(lifecycle.health.servicer, server)
    reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    await lifecycle.health.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    for name in services:
        await lifecycle.health.add_service(name)
    port = server.add_insecure_port(settings.grpc_listen)
    await server.start()

    async def drain(seconds: float) -> None:
        # They have been told NOT_SERVING, and would never end by themselves.
        lifecycle.health.servicer.end_watches()
        await server.stop(seconds)

    lifecycle.on_drain(drain)
    # Where wiring fails after this, nothing drains, and yet the port must be closed.
    lifecycle.defer(lambda: server.stop(0))
    lifecycle.addresses["grpc_port"] = port
    return port
