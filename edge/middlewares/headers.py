"""Headers that every response has, set when it is sent."""

from typing import Final

from aiohttp import web

from edge.middlewares.context import REQUEST_ID
from services.common import logs

_CSP: Final = "Content-Security-Policy"
# For JSON and streams, which load nothing. Pages bring a policy of their own.
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"

_SECURITY: Final = {
    # A body is what its type says, whatever it looks like.
    "X-Content-Type-Options": "nosniff",
    # Addresses hold ids of bookings and devices.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Heeded over HTTPS only.
    "Strict-Transport-Security": "max-age=31536000",
    # Which software answers is nobody's business.
    "Server": "boxoffice",
}


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler of `on_response_prepare`."""
    set_headers(response)


def set_headers(response: web.StreamResponse) -> None:
    """Sets them, for what is answered without a request."""
    headers = response.headers
    headers.update(_SECURITY)
    headers[REQUEST_ID] = logs.request_id.get()
    if _CSP not in headers:
        headers[_CSP] = _NOTHING
