"""Everything that goes wrong → RFC 9457 problem documents. The only place of the edge that does this.

Status and title come from the catalogue of reasons, whoever found the problem: the edge, a service, or aiohttp.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from grpc import aio

from edge.transcode.problems import InvalidRequest
from services.common import errors, metrics, telemetry

MEDIA_TYPE: Final = "application/problem+json"

# Anchors of these are on the page of the explorer, so that `type` can be opened.
_TYPE_PREFIX: Final = "/docs#"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_RETRY_AFTER: Final = "retry_after_ms"
_FIELD: Final = "field"
_UNAUTHORIZED: Final = 401
_SERVER_ERRORS: Final = 500

# What aiohttp raises by itself, by status. Anything else of it is a request that HTTP does not allow.
_OF_AIOHTTP: Final[Mapping[int, str]] = {
    404: "ROUTE_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}

# After these nobody knows where the next request would begin.
_LAST_OF_CONNECTION: Final = frozenset({"MALFORMED_REQUEST", "BODY_TIMEOUT"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told about a failed request."""

    reason: str
    detail: str
    metadata: Mapping[str, str]
    # (field, detail) of everything that was wrong.
    violations: tuple[tuple[str, str], ...] = ()
    # Headers that HTTP asks for, such as Allow.
    headers: Mapping[str, str] | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(errors.mapping(self.reason).http_status)

    @property
    def is_fault(self) -> bool:
        """Whether the fault is ours."""
        return self.status >= _SERVER_ERRORS


def answer(error: BaseException, where: str) -> web.Response:
    """The response to what went wrong at a route; it is counted, and reported where the fault is ours."""
    problem = describe(error)
    count(problem)
    report(error, problem, where)
    return response_of(problem)


def describe(error: BaseException) -> Problem:
    """What is told about an exception, whichever part raised it. Texts that were not meant for callers are not told."""
    if isinstance(error, InvalidRequest):
        violations = tuple((violation.field, violation.detail) for violation in error.violations)
        return Problem(error.reason, str(error), {}, violations)
    if isinstance(error, aio.AioRpcError):
        return _of_rpc(error)
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if isinstance(error, HttpProcessingError):
        # Its text is a piece of what was sent.
        return _of_reason("HEADERS_TOO_LARGE" if isinstance(error, LineTooLong) else "MALFORMED_REQUEST")
    told = errors.describe(error)
    return Problem(told.reason, told.detail, told.metadata, _violations(told.metadata, told.detail))


def _of_reason(reason: str) -> Problem:
    return Problem(reason, errors.mapping(reason).title, {})


def _of_rpc(error: aio.AioRpcError) -> Problem:
    reason, detail, metadata = errors.from_rpc_error(error)
    if any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
        detail = detail or errors.mapping(reason).title
        return Problem(reason, detail, metadata, _violations(metadata, detail))
    # A service that stops cancels what it still has; to our caller that is no different from one that is gone.
    if error.code() is grpc.StatusCode.CANCELLED:
        reason = "UNAVAILABLE"
    # Without ErrorInfo it is gRPC or a proxy that speaks, and of addresses: that is for the log.
    return _of_reason(reason)


def _of_http(error: web.HTTPException) -> Problem:
    reason = _OF_AIOHTTP.get(error.status, "INTERNAL" if error.status >= _SERVER_ERRORS else "INVALID_ARGUMENT")
    allow = error.headers.get("Allow")
    title = errors.mapping(reason).title
    return Problem(reason, title, {}, headers={"Allow": allow} if allow else None)


def _violations(metadata: Mapping[str, str], detail: str) -> tuple[tuple[str, str], ...]:
    return ((metadata[_FIELD], detail),) if _FIELD in metadata else ()


def document(problem: Problem) -> dict[str, Any]:
    """The problem as JSON."""
    told: dict[str, Any] = {
        "type": type_of(problem.reason),
        "title": errors.mapping(problem.reason).title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.reason,
        "trace_id": telemetry.trace_id_of(telemetry.current_traceparent()),
    }
    if problem.violations:
        told["errors"] = [{"field": field, "detail": detail} for field, detail in problem.violations]
    if (pause := _retry_after_ms(problem)) is not None:
        told[_RETRY_AFTER] = pause
    if rest := {key: value for key, value in problem.metadata.items() if key not in {_FIELD, _RETRY_AFTER}}:
        told["metadata"] = rest
    return told


def response_of(problem: Problem) -> web.Response:
    """The problem as a response."""
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", **(problem.headers or {})}
    if (pause := _retry_after_ms(problem)) is not None:
        headers["Retry-After"] = str(math.ceil(pause / 1000))
    if problem.status == _UNAUTHORIZED:
        headers["WWW-Authenticate"] = _challenge(problem.reason)
    response = web.Response(body=orjson.dumps(document(problem)), status=problem.status, headers=headers)
    if problem.reason in _LAST_OF_CONNECTION:
        response.force_close()
    return response


def type_of(reason: str) -> str:
    """The `type` of a problem: a reference that opens what is known about it."""
    return _TYPE_PREFIX + reason


def count(problem: Problem) -> None:
    """Counts a problem that is told to a client."""
    metrics.HTTP_PROBLEMS.labels(problem.reason).inc()


def report(error: BaseException, problem: Problem, where: str) -> None:
    """Logs and traces what is a fault of ours. A backend that is away is told by its health, not once per request."""
    if not problem.is_fault:
        return
    if problem.reason == "INTERNAL":
        fields = {"route": where, "error": f"{type(error).__name__}: {error}"}
        # A backend's own fault was logged there, with its traceback; here it is one line.
        of_backend = isinstance(error, grpc.RpcError)
        _log.error("request failed", exc_info=None if of_backend else error, extra={"fields": fields})
    telemetry.record_fault(where, error)


def _retry_after_ms(problem: Problem) -> int | None:
    value = problem.metadata.get(_RETRY_AFTER, "")
    if value.isdecimal():
        return int(value)
    return 1000 if problem.reason == "UNAVAILABLE" else None


def _challenge(reason: str) -> str:
    """RFC 6750: a client that sent no token is told no error."""
    if reason == "TOKEN_EXPIRED":
        return 'Bearer realm="boxoffice", error="invalid_token", error_description="expired"'
    return 'Bearer realm="boxoffice"'
