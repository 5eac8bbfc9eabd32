"""The listening socket, and what HTTP asks for before there is a request: refusals as problem documents, time limits.

aiohttp tells a request that it cannot parse in plain text, with a piece of it, and logs an error. Here it is a problem
document like any other, and no news for the log: anybody can send anything.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from edge import problems
from edge.middlewares import headers
from edge.transcode.problems import InvalidRequest, Violation
from services.common import logs, telemetry
from services.common.lifecycle import Lifecycle
from services.common.settings import split_address

# Longer than the idle time-outs of load balancers (60 s), so that they, not we, close a connection first. What begins
# to send a request and does not come to the end of its headers is closed after this time, too.
_KEEP_ALIVE_SECONDS: Final = 75.0
# Connections that the kernel keeps while the loop is busy: the first second of an on-sale.
_BACKLOG: Final = 4096
# What stands for the route where there is none.
_NO_REQUEST: Final = "no request"


class Protocol(web.RequestHandler):
    """One connection. Its refusals are problem documents with the headers of every response."""

    __slots__ = ()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answers what could not be parsed, and faults outside of the middlewares; ends the connection.

        Raises ConnectionError, which aiohttp takes as the end of it, when a part of a response has been sent.
        """
        del status, message  # Both may hold a piece of what was sent.
        response = _refusal(exc or TimeoutError())
        if request.writer.output_size > 0:
            raise ConnectionError("a part of a response has been sent")
        response.force_close()
        return response

    def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Sends a response. Those that aiohttp raises outside of the middlewares are about the header Expect."""
        if isinstance(resp, web.HTTPException):
            resp = _refusal(_of_http(resp))
        return super().finish_response(request, resp, start_time)


def _of_http(error: web.HTTPException) -> Exception:
    if isinstance(error, web.HTTPExpectationFailed):
        return InvalidRequest([Violation("Expect", "may only be 100-continue")])
    return error


def _refusal(error: BaseException) -> web.Response:
    """The answer to something that no middleware has seen; it gets its ids here."""
    with telemetry.span(_NO_REQUEST) as span:
        logs.request_id.set(telemetry.trace_id_of(span.traceparent))
        response = problems.answer(error, _NO_REQUEST)
    headers.set_headers(response)
    return response


async def listen(lifecycle: Lifecycle, address: str, app: web.Application, *, drain_seconds: float) -> int:
    """Serves the application from now on and returns the port; drains with the lifecycle."""
    # A mutation goes on when its client hangs up: half of the time the client only lost the answer.
    runner = web.AppRunner(app, handle_signals=False, handler_cancellation=False, shutdown_timeout=drain_seconds)
    await runner.setup()
    lifecycle.defer(runner.cleanup)
    host, port = split_address(address)
    listener = await asyncio.get_running_loop().create_server(_protocols(runner), host, port, backlog=_BACKLOG)

    async def stop(_seconds: float = 0.0) -> None:
        listener.close()
        await runner.cleanup()

    lifecycle.defer(stop)
    lifecycle.on_drain(stop)
    return int(listener.sockets[0].getsockname()[1])


def _protocols(runner: web.AppRunner) -> Callable[[], Protocol]:
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "keepalive_timeout": _KEEP_ALIVE_SECONDS,
        # Compressed bodies are refused; a little of one can become a lot of memory.
        "auto_decompress": False,
    }
    server = runner.server
    if server is None:
        raise RuntimeError("the runner has not been set up")
    return lambda: Protocol(server, **options)
