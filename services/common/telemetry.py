"""Traces: W3C trace context through every call, spans for the sampled few, and a span for every fault.

The context of a request is its `traceparent` string, kept in a context variable and passed on as it came. Only where
its sampled flag is set do span objects exist; every other request pays for reading one variable. A request that ends
in a fault of ours and was not sampled gets one span afterwards (`record_fault`), so that errors are always found.
"""

import random
import re
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

# Marks a span that was written after a fault, for a request that was not sampled: it has no children.
RETROSPECTIVE: Final = "boxoffice.retrospective"

# With its retries; a collector that is away must not hold up the end of the process.
_EXPORT_SECONDS: Final = 2.0

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED_ENDS: Final = frozenset("13579bdf")

_traceparent: ContextVar[str] = ContextVar("traceparent", default="")
_active_span: ContextVar[trace.Span | None] = ContextVar("active_span", default=None)
# The context of a request that began here and was not sampled: a fault in it is the root of its trace.
_unsampled_root: ContextVar[str] = ContextVar("unsampled_root", default="")


def current_traceparent() -> str:
    """The W3C `traceparent` of the request being handled, for headers of calls and records; "" outside of one."""
    return _traceparent.get()


def trace_id_of(traceparent: str) -> str:
    """The 32 hex digits that find the trace; "" for an empty `traceparent`."""
    return traceparent[3:35]


def span_id_of(traceparent: str) -> str:
    """The 16 hex digits of the span; "" for an empty `traceparent`."""
    return traceparent[36:52]


class _HeadSampler(ParentBased):
    """The parent decides, a root is sampled by the ratio, and what tells of a fault is always kept."""

    def should_sample(  # noqa: PLR0917 - the signature of the SDK
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if attributes and RETROSPECTIVE in attributes:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return super().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)


class _GivenIds(RandomIdGenerator):
    """Lets the next root span have the ids that the request already goes by in logs and headers."""

    def __init__(self) -> None:
        self._next: tuple[int, int] | None = None

    def give(self, traceparent: str) -> None:
        self._next = (int(trace_id_of(traceparent), 16), int(span_id_of(traceparent), 16))

    def generate_trace_id(self) -> int:
        return self._next[0] if self._next else super().generate_trace_id()

    def generate_span_id(self) -> int:
        if self._next is None:
            return super().generate_span_id()
        given, self._next = self._next, None
        return given[1]


@dataclass(frozen=True, slots=True)
class _Tracing:
    provider: TracerProvider
    tracer: trace.Tracer
    ids: _GivenIds
    # A root trace id below this is sampled: the rule of TraceIdRatioBased, applied before any object is made.
    bound: int


_tracing: _Tracing | None = None


def configure(service: str, ratio: float, processor: SpanProcessor) -> None:
    """Starts tracing in this process; spans go to `processor`."""
    global _tracing  # noqa: PLW0603 - one tracer per process, as one standard output
    ids = _GivenIds()
    sampler: Sampler = _HeadSampler(TraceIdRatioBased(ratio))
    provider = TracerProvider(
        sampler=sampler,
        resource=Resource.create({"service.name": service, "service.namespace": "boxoffice"}),
        id_generator=ids,
        shutdown_on_exit=False,
    )
    provider.add_span_processor(processor)
    bound = TraceIdRatioBased.get_bound_for_rate(ratio)
    _tracing = _Tracing(provider, provider.get_tracer("boxoffice"), ids, bound)


def configure_otlp(service: str, ratio: float, endpoint: str) -> None:
    """Starts tracing to an OTLP/HTTP collector: batched, from a thread of its own, dropped when it cannot be sent."""
    url = endpoint.rstrip("/") + "/v1/traces"
    configure(service, ratio, BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=_EXPORT_SECONDS)))


def shutdown() -> None:
    """Sends what is waiting and stops. Blocks until then."""
    global _tracing  # noqa: PLW0603 - see configure
    if _tracing is not None:
        _tracing.provider.shutdown()
        _tracing = None


def new_traceparent() -> str:
    """A fresh root context, sampled by the ratio."""
    trace_id = random.getrandbits(128) or 1
    sampled = _tracing is not None and (trace_id & TraceIdRatioBased.TRACE_ID_LIMIT) < _tracing.bound
    return f"00-{trace_id:032x}-{random.getrandbits(64) or 1:016x}-{'01' if sampled else '00'}"


def from_outside(traceparent: str | None) -> str | None:
    """A context that a stranger sent, sampled as we decide: its trace goes on, its flag counts for nothing.

    A client that sets the flag, or chooses trace ids that a ratio would take, must not make us trace all it asks for.
    None where it is no context.
    """
    if not is_traceparent(traceparent):
        return None
    sampled = _tracing is not None and random.getrandbits(64) < _tracing.bound
    return f"{(traceparent or '')[:52]}-{'01' if sampled else '00'}"


class Span:
    """A step of a request, as a context manager. Where the request is not sampled it only carries the context on."""

    __slots__ = ("_attributes", "_name", "_parent", "_previous", "_previous_span", "_span", "traceparent")

    def __init__(self, name: str, traceparent: str | None, attributes: dict[str, AttributeValue]) -> None:
        self._name = name
        self._attributes = attributes
        self._span: trace.Span | None = None
        self._parent = (traceparent if is_traceparent(traceparent) else "") or _traceparent.get()
        self.traceparent = self._parent or new_traceparent()

    def __enter__(self) -> Self:
        self._previous, self._previous_span = _traceparent.get(), _active_span.get()
        if _tracing is not None and is_sampled(self.traceparent):
            self._start(_tracing)
        elif not self._parent:
            _unsampled_root.set(self.traceparent)
        _traceparent.set(self.traceparent)
        _active_span.set(self._span)
        return self

    def _start(self, tracing: _Tracing) -> None:
        if not self._parent:
            tracing.ids.give(self.traceparent)
        parent = _context(self._parent)
        self._span = tracing.tracer.start_span(self._name, context=parent, attributes=self._attributes)
        context = self._span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def set(self, key: str, value: AttributeValue) -> None:
        """Adds an attribute; nothing happens where the request is not sampled."""
        if self._span is not None:
            self._span.set_attribute(key, value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Set rather than reset: an async generator may be closed in another context than it was entered in.
        _traceparent.set(self._previous)
        _active_span.set(self._previous_span)
        if self._span is not None:
            if isinstance(error, Exception):
                self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            self._span.end()


def span(name: str, traceparent: str | None = None, **attributes: AttributeValue) -> Span:
    """A span as a context manager.

    Its parent is `traceparent` (of a header or record), else the current one; with neither it begins a trace, sampled
    by the ratio. A malformed `traceparent` is ignored. Attributes must not name people or hold secrets.
    """
    return Span(name, traceparent, attributes)


def is_traceparent(value: str | None) -> bool:
    """Whether `value` is a W3C trace context that can be continued."""
    return bool(value) and _TRACEPARENT.fullmatch(value or "") is not None


def is_sampled(traceparent: str) -> bool:
    """Whether the sampled flag is set."""
    return traceparent[-1:] in _SAMPLED_ENDS


def _context(traceparent: str) -> Context:
    if not traceparent:
        return Context()
    parent = trace.SpanContext(
        int(trace_id_of(traceparent), 16),
        int(span_id_of(traceparent), 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(traceparent[53:55], 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def record_fault(name: str, error: BaseException, *, elapsed: float = 0.0, **attributes: AttributeValue) -> None:
    """Writes `error` into the trace: on the current span, or where the request was not sampled on one made for it.

    `elapsed` is how long the failed step took, in seconds.
    """
    active = _active_span.get()
    if active is not None:
        _mark(active, error)
    elif _tracing is not None:
        end, traceparent = time.time_ns(), _traceparent.get()
        is_root = traceparent != "" and traceparent == _unsampled_root.get()
        if is_root:
            _tracing.ids.give(traceparent)
        late = _tracing.tracer.start_span(
            name,
            context=_context("" if is_root else traceparent),
            attributes={**attributes, RETROSPECTIVE: True},
            start_time=end - int(elapsed * 1e9),
        )
        _mark(late, error)
        late.end(end)


def _mark(target: trace.Span, error: BaseException) -> None:
    target.record_exception(error)
    target.set_status(Status(StatusCode.ERROR, type(error).__name__))
