"""Exceptions → problem documents, for every request."""

from aiohttp import web

from edge import problems
from edge.middlewares.context import Handler, route_of


@web.middleware
async def problem(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with a problem document when the handler raises. Cancellation passes."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem document
        return problems.answer(error, route_of(request))
