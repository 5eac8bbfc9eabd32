"""gRPC channels to other services: balanced, kept alive, retried by one policy, passing on what belongs to the call.

What may be retried is data: `retry_policy.json`, a gRPC service config. Only UNAVAILABLE, only idempotent methods; a
method that is not named there is never retried (docs/decisions/0012).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from grpc import StatusCode, aio

from services.common import logs
from services.common.caller import CLIENT_ADDRESS, call_var
from services.common.telemetry import current_traceparent

RETRY_POLICY: Final = Path(__file__).with_name("retry_policy.json")

_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

_OPTIONS: Final[Sequence[tuple[str, str | int]]] = (
    ("grpc.service_config", RETRY_POLICY.read_text()),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A peer that vanished without a word is noticed within 40 s, also while nothing is being called.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted peer is found again within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


@asynccontextmanager
async def connect(target: str) -> AsyncIterator[aio.Channel]:
    """A channel to `target` ("host:port", or any gRPC name). Connects when first used; the peer need not be up yet.

    Calls made while handling a call carry on its authorization, trace context, request id, address of the client, and
    what is left of its deadline.
    """
    interceptors = (_UnaryPropagation(), _StreamPropagation())
    async with aio.insecure_channel(target, options=_OPTIONS, interceptors=interceptors) as channel:
        yield channel


class _UnaryPropagation(aio.UnaryUnaryClientInterceptor):
    """Carries the context of the current call on."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_carried_on(client_call_details), request)


class _StreamPropagation(aio.UnaryStreamClientInterceptor):
    """The same for server streams."""

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_carried_on(client_call_details), request)


def _carried_on(details: aio.ClientCallDetails) -> aio.ClientCallDetails:
    call = call_var.get()
    carried = (
        ("authorization", call.authorization if call else ""),
        ("traceparent", current_traceparent()),
        ("x-request-id", logs.request_id.get()),
        (CLIENT_ADDRESS, call.client_address if call else ""),
    )
    metadata = aio.Metadata(*(details.metadata or ()))
    for key, value in carried:
        # What the caller of this call has set by hand stays.
        if value and metadata.get(key) is None:
            metadata.add(key, value)
    timeout = _sooner(details.timeout, call.deadline if call else None)
    return aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


def _sooner(timeout: float | None, deadline: float | None) -> float | None:
    """The time-out of a call made on behalf of one that must be answered by `deadline`."""
    if deadline is None:
        return timeout
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        # Given no time at all, gRPC may or may not send the call; nobody waits for its answer.
        raise aio.AioRpcError(
            StatusCode.DEADLINE_EXCEEDED, aio.Metadata(), aio.Metadata(), "the time of the call that asks is over"
        )
    return left if timeout is None else min(timeout, left)
