"""What happens around every RPC, in one ordered list.

Layers extend the base classes of grpc-interceptor. Those wrap a handler anew at every call; `Compose` keeps the wrapped
handler instead, so that the list is walked once per method (docs/decisions/0010).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from boxoffice.options.v1 import options_pb2
from grpc import aio
from grpc_interceptor.exception_to_status import AsyncExceptionToStatusInterceptor
from grpc_interceptor.server import AsyncServerInterceptor
from grpc_status import rpc_status

from services.common import caller, errors, logs, metrics, telemetry, validation
from services.common.caller import CLIENT_ADDRESS, Call, call_var, caller_var
from services.common.policies import Method
from services.common.tokens import TokenVerifier

# Served beside every service: they tell about the process, not about anyone's data. The mesh decides who may ask.
EXEMPT: Final = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)

_SLOW_SECONDS: Final = 1.0
_BEARER: Final = "bearer "

# The role that a level of access asks for; "" for any account.
_ROLES: Final[Mapping[int, str]] = {
    options_pb2.ACCESS_USER: "",
    options_pb2.ACCESS_ORGANIZER: caller.ORGANIZER,
    options_pb2.ACCESS_OPERATOR: caller.OPERATOR,
}

# In quotes: generic for mypy only.
_RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handler = Callable[[Any, aio.ServicerContext[Any, Any]], Any]

_log = logging.getLogger(__name__)


def interceptors(methods: Mapping[str, Method], verifier: TokenVerifier | None) -> Sequence[aio.ServerInterceptor]:
    """The layers around the handlers of `methods`, outermost first."""
    return (
        # First of all, so that what follows is put together once per method, not once per call.
        Compose(),
        # Before anything can fail: whatever is logged or recorded below bears the ids of the request.
        TraceLayer(),
        # Outside of the errors, so that refusals and faults are measured like answers.
        MetricsLayer(methods),
        # Outside of everything that refuses: one place turns exceptions into statuses.
        ErrorLayer(),
        # Before the request is looked at: a stranger learns nothing from how we judge their fields.
        AccessLayer(methods, verifier),
        # Last, next to the handler, which may rely on what the contract says is there.
        ValidationLayer(methods),
    )


class Compose(aio.ServerInterceptor):
    """Remembers the composed handler of each method. Unknown methods are not remembered: there is no end of them."""

    def __init__(self) -> None:
        self._handlers: dict[str, _RpcHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_RpcHandler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_RpcHandler | None":
        """The handler of the method, with every layer around it."""
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                self._handlers[path] = handler
        return handler


class TraceLayer(AsyncServerInterceptor):
    """Sets what is known of the call: trace context, request id, credentials, deadline. Opens a span if sampled."""

    async def intercept(self, method: Handler, request: Any, context: Any, method_name: str) -> Any:
        """See the class."""
        traceparent = _begin(context)
        response = method(request, context)
        if hasattr(response, "__aiter__"):
            return self._stream(response, method_name, traceparent)
        with telemetry.Span(method_name, traceparent, _SPAN_ATTRIBUTES):
            return await response

    async def _stream(self, responses: AsyncIterator[Any], method_name: str, traceparent: str) -> AsyncIterator[Any]:
        with telemetry.Span(method_name, traceparent, _SPAN_ATTRIBUTES):
            async for response in responses:
                yield response


_SPAN_ATTRIBUTES: Final[dict[str, Any]] = {"rpc.system": "grpc"}


def _begin(context: Any) -> str:
    """Fills the context variables of the call's task from its metadata; returns the traceparent, or ""."""
    call, traceparent = Call(), ""
    for key, value in context.invocation_metadata():
        if key == "authorization":
            call.authorization = value
        elif key == "traceparent":
            traceparent = value
        elif key == "x-request-id":
            logs.request_id.set(value)
        elif key == CLIENT_ADDRESS:
            call.client_address = value
    remaining = context.time_remaining()
    if remaining is not None:
        call.deadline = asyncio.get_running_loop().time() + remaining
    call_var.set(call)
    return traceparent


class MetricsLayer(AsyncServerInterceptor):
    """Measures every call, and logs the slow ones."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        names = {path: (method.service, method.name) for path, method in methods.items()}
        self._names = names
        # Looking children up by label costs more than observing: those of the usual outcome are kept.
        self._ok = {path: metrics.RPC_DURATION.labels(*name, "OK") for path, name in names.items()}

    async def intercept(self, method: Handler, request: Any, context: Any, method_name: str) -> Any:
        """See the class."""
        if method_name not in self._names:
            return await _answer(method, request, context)
        response = method(request, context)
        if hasattr(response, "__aiter__"):
            return self._stream(response, method_name)
        started = time.perf_counter()
        try:
            return await response
        except asyncio.CancelledError:
            _reason("CANCELLED")
            raise
        finally:
            self._observe(method_name, time.perf_counter() - started)

    def _observe(self, path: str, seconds: float) -> None:
        reason = _outcome()
        child = self._ok[path] if reason == "OK" else metrics.RPC_DURATION.labels(*self._names[path], reason)
        child.observe(seconds)
        if seconds > _SLOW_SECONDS:
            fields = {"method": path, "seconds": round(seconds, 3), "reason": reason}
            _log.warning("slow call", extra={"fields": fields})

    async def _stream(self, responses: AsyncIterator[Any], path: str) -> AsyncIterator[Any]:
        watchers = metrics.RPC_STREAMS_OPEN.labels(*self._names[path])
        watchers.inc()
        try:
            async for response in responses:
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            _reason("CANCELLED")
            raise
        finally:
            watchers.dec()
            metrics.RPC_STREAMS.labels(*self._names[path], _outcome()).inc()


class ErrorLayer(AsyncExceptionToStatusInterceptor):
    """Turns exceptions into statuses with ErrorInfo. Faults are logged here, once, with everything that is known.

    Cancellation is not an Exception and passes.
    """

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> NoReturn:
        """Ends the call with the status of `ex`."""
        del request_or_iterator
        if isinstance(ex, aio.AbortError):  # A handler of gRPC's own services has spoken.
            raise ex
        problem = errors.describe(ex)
        _reason(problem.reason)
        report(ex, problem, method_name)
        await context.abort_with_status(rpc_status.to_status(errors.status_of(problem)))
        raise AssertionError("abort_with_status raises") from ex


def report(error: Exception, problem: errors.Problem, where: str) -> None:
    """Logs and traces `error` if it is a fault of ours.

    What nobody foresaw is logged with its traceback. A dependency that is away is one short line: while it is, every
    call says so.
    """
    if not problem.is_fault:
        return
    fields = {"method": where, "reason": problem.reason, "error": f"{type(error).__name__}: {error}"}
    if problem.reason == "INTERNAL":
        _log.error("call failed", exc_info=error, extra={"fields": fields})
    else:
        _log.warning("call failed", extra={"fields": fields})
    telemetry.record_fault(where, error)


class AccessLayer(AsyncServerInterceptor):
    """Lets a call through only as its method's policy says. What is not declared is refused."""

    def __init__(self, methods: Mapping[str, Method], verifier: TokenVerifier | None) -> None:
        self._access = {path: method.policy.access for path, method in methods.items()}
        self._verifier = verifier

    async def intercept(self, method: Handler, request: Any, context: Any, method_name: str) -> Any:
        """See the class."""
        await self._admit(method_name)
        return await _answer(method, request, context)

    async def _admit(self, path: str) -> None:
        access = self._access.get(path, options_pb2.ACCESS_UNSPECIFIED)
        # INTERNAL asks for no user: the caller is another process of ours, which the mesh has identified (mTLS and its
        # authorization policy), and which may act for many users at once, or for none.
        if access in {options_pb2.ACCESS_PUBLIC, options_pb2.ACCESS_INTERNAL} or path.startswith(EXEMPT):
            return
        if access not in _ROLES:
            raise errors.PermissionDenied("this method is open to nobody")
        await self._authorize(_ROLES[access])

    async def _authorize(self, role: str) -> None:
        call = call_var.get()
        authorization = call.authorization if call else ""
        if self._verifier is None or authorization[: len(_BEARER)].lower() != _BEARER:
            raise errors.Unauthenticated
        account = await self._verifier.verify(authorization[len(_BEARER) :])
        if role and role not in account.roles:
            raise errors.PermissionDenied
        caller_var.set(account)


class ValidationLayer(AsyncServerInterceptor):
    """Refuses requests that lack what the contract requires. The checks are compiled when the server starts."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._checks: dict[str, Callable[[Any], None]] = {
            path: validation.compile_checks(method) for path, method in methods.items()
        }

    async def intercept(self, method: Handler, request: Any, context: Any, method_name: str) -> Any:
        """See the class."""
        check = self._checks.get(method_name)
        if check is not None:
            check(request)
        return await _answer(method, request, context)


async def _answer(method: Handler, request: Any, context: Any) -> Any:
    """What the next layer gives: a response, or an iterator of them."""
    response = method(request, context)
    return response if hasattr(response, "__aiter__") else await response


def _reason(reason: str) -> None:
    call = call_var.get()
    if call is not None:
        call.reason = reason


def _outcome() -> str:
    call = call_var.get()
    return call.reason if call is not None else "OK"
