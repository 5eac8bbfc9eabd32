"""Request id, trace context and measurement of every request."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Histogram

from edge.client_address import ClientAddresses
from edge.streams import EventStream
from services.common import logs, metrics, telemetry
from services.common.caller import Call, call_var, caller_var

REQUEST_ID: Final = "X-Request-Id"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._\-]{8,64}")
# Labels have few values by construction: what a client makes up is not one of them.
_UNMATCHED: Final = "unmatched"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER: Final = "other"

# Children of the histogram: looking one up by labels costs more than observing.
_children: dict[tuple[Any, str, int], Histogram] = {}


def context(addresses: ClientAddresses) -> Middleware:
    """Gives a request its ids and the address of its client, opens its span where it is sampled, and measures it.

    A connection's requests share one task, so everything is set anew: nothing of the one before is left.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        caller_var.set(None)
        call_var.set(Call(client_address=addresses.of(request)))
        return await _measured(request, handler)

    return middleware


async def _measured(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.perf_counter()
    headers = request.headers
    metrics.HTTP_IN_FLIGHT.inc()
    try:
        with telemetry.Span(route_of(request), telemetry.from_outside(headers.get("traceparent")), {}) as span:
            logs.request_id.set(_request_id(headers.get(REQUEST_ID), span.traceparent))
            response = await handler(request)
            if telemetry.is_sampled(span.traceparent):
                _describe(span, request, response)
    finally:
        metrics.HTTP_IN_FLIGHT.dec()
    # How long somebody follows a stream says nothing about us.
    if not isinstance(response, EventStream):
        _child(request, response.status).observe(time.perf_counter() - started)
    return response


def _request_id(given: str | None, traceparent: str) -> str:
    """The client's own id where it is one, else the id of the trace, which costs nothing."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return telemetry.trace_id_of(traceparent)


def route_of(request: web.Request) -> str:
    """The template of the route, for labels and logs; never the URL, which holds what a client makes up."""
    resource = request.match_info.route.resource
    return _UNMATCHED if resource is None else resource.canonical


def _child(request: web.Request, status: int) -> Histogram:
    resource = request.match_info.route.resource
    method = request.method if request.method in _METHODS else _OTHER
    key = resource, method, status
    child = _children.get(key)
    if child is None:
        child = _children[key] = metrics.HTTP_DURATION.labels(route_of(request), method, status)
    return child


def _describe(span: telemetry.Span, request: web.Request, response: web.StreamResponse) -> None:
    span.set("http.request.method", request.method)
    span.set("http.route", route_of(request))
    span.set("http.response.status_code", response.status)
