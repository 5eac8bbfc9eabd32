"""Cross-origin requests: off, unless origins are configured.

Access tokens travel in a header that no browser adds by itself, so credentials mode is never needed.
"""

from collections.abc import Collection
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from edge.middlewares.context import REQUEST_ID, Handler

_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, X-Admission-Token, X-Request-Id, traceparent"
)
_RESPONSE_HEADERS: Final = f"ETag, Idempotency-Replayed, Location, Retry-After, {REQUEST_ID}"
_MAX_AGE: Final = "600"
_NO_CONTENT: Final = 204
# The allowed origin that a request came from.
_ORIGIN: Final = web.RequestKey("origin", str)


def cors(origins: Collection[str]) -> Middleware:
    """Lets pages of these origins use the API."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin not in origins or origin is None:
            return await handler(request)
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            return web.Response(status=_NO_CONTENT, headers=_preflight(origin))
        request[_ORIGIN] = origin
        return await handler(request)

    return middleware


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler of `on_response_prepare`: what an allowed origin may read. Streams need it before they end."""
    # Also where the origin is not allowed: a cache must not give one origin's answer to another.
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    origin = request.get(_ORIGIN)
    if origin is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _RESPONSE_HEADERS
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"


def _preflight(origin: str) -> dict[str, str]:
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _REQUEST_HEADERS,
        hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE,
    }
