"""Traces cost next to nothing unless sampled, faults are always kept, and logs say which request and no secrets."""

import asyncio
import logging
import timeit
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common import logs, telemetry

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Recorder:
    """What was exported."""

    def __init__(self, ratio: float) -> None:
        self._exporter = InMemorySpanExporter()
        telemetry.configure("test", ratio, SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def one(self) -> ReadableSpan:
        (span,) = self.spans
        return span


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    yield Recorder(0.0)
    telemetry.shutdown()


@pytest.fixture
def recorder_of_all() -> Iterator[Recorder]:
    yield Recorder(1.0)
    telemetry.shutdown()


def _ids(span: ReadableSpan) -> tuple[str, str, str]:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{parent.span_id:016x}" if parent else ""


def test_an_unsampled_request_makes_no_span_and_passes_its_context_on_as_it_came(recorder: Recorder) -> None:
    with telemetry.span("a", traceparent=UNSAMPLED):
        assert telemetry.current_traceparent() == UNSAMPLED
        with telemetry.span("b"):
            assert telemetry.current_traceparent() == UNSAMPLED
    assert telemetry.current_traceparent() == ""
    assert recorder.spans == ()


def test_a_sampled_request_makes_a_tree(recorder: Recorder) -> None:
    with telemetry.span("outer", traceparent=SAMPLED, rows=3) as outer:
        with telemetry.span("inner"):
            pass
        assert telemetry.current_traceparent() == outer.traceparent
    inner_span, outer_span = recorder.spans
    assert _ids(outer_span)[0] == _ids(inner_span)[0] == TRACE
    assert _ids(outer_span)[2] == PARENT
    assert _ids(inner_span)[2] == _ids(outer_span)[1] == telemetry.span_id_of(outer.traceparent)
    assert outer_span.attributes == {"rows": 3}


def test_a_root_is_sampled_by_the_ratio_and_has_the_ids_that_the_request_goes_by(recorder_of_all: Recorder) -> None:
    with telemetry.span("root") as root:
        pass
    trace_id, span_id, parent = _ids(recorder_of_all.one())
    assert (trace_id, span_id, parent) == (root.traceparent[3:35], root.traceparent[36:52], "")


def test_the_ratio_holds() -> None:
    recorder = Recorder(0.25)
    for _ in range(2000):
        with telemetry.span("root"):
            pass
    telemetry.shutdown()
    assert 380 < len(recorder.spans) < 620


@pytest.mark.parametrize(
    "traceparent",
    ["", "x", SAMPLED[:-1], SAMPLED + "0", SAMPLED.upper(), f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01"],
)
def test_a_malformed_context_begins_a_trace_of_its_own(recorder: Recorder, traceparent: str) -> None:
    with telemetry.span("a", traceparent=traceparent) as span:
        assert telemetry.is_traceparent(span.traceparent)
        assert TRACE not in span.traceparent
    assert recorder.spans == ()


@pytest.mark.parametrize("given", [SAMPLED, UNSAMPLED])
def test_a_stranger_goes_on_with_the_trace_and_we_decide_whether_it_is_sampled(given: str) -> None:
    decided = []
    for ratio in (0.0, 1.0):
        Recorder(ratio)
        decided.append(telemetry.from_outside(given))
        telemetry.shutdown()
    assert decided == [UNSAMPLED, SAMPLED]
    assert telemetry.from_outside(given) == UNSAMPLED


def test_a_stranger_cannot_choose_a_trace_id_that_is_always_sampled() -> None:
    Recorder(0.01)
    lowest = f"00-{1:032x}-{PARENT}-01"
    sampled = [telemetry.is_sampled(telemetry.from_outside(lowest) or "") for _ in range(2000)]
    telemetry.shutdown()
    assert 1 <= sum(sampled) <= 80


@pytest.mark.parametrize("given", [None, "", "nonsense", f"01-{TRACE}-{PARENT}-01"])
def test_what_is_no_context_is_none_from_outside(given: str | None) -> None:
    assert telemetry.from_outside(given) is None


def test_a_fault_of_an_unsampled_request_is_recorded_afterwards_under_its_parent(recorder: Recorder) -> None:
    with telemetry.span("a", traceparent=UNSAMPLED):
        telemetry.record_fault("Reserve", RuntimeError("broken"), elapsed=0.5)
    span = recorder.one()
    assert (_ids(span)[0], _ids(span)[2]) == (TRACE, PARENT)
    assert dict(span.attributes or {})[telemetry.RETROSPECTIVE] is True
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == 500_000_000


def test_a_fault_of_an_unsampled_root_is_the_root_that_the_log_names(recorder: Recorder) -> None:
    with telemetry.span("a") as root:
        telemetry.record_fault("a", RuntimeError("broken"))
    assert _ids(recorder.one()) == (root.traceparent[3:35], root.traceparent[36:52], "")


def test_a_fault_of_a_sampled_request_marks_its_span(recorder: Recorder) -> None:
    with telemetry.span("a", traceparent=SAMPLED):
        telemetry.record_fault("a", RuntimeError("broken"))
    assert [event.name for event in recorder.one().events] == ["exception"]
    assert not recorder.one().status.is_ok


def test_without_tracing_everything_is_carried_and_nothing_recorded() -> None:
    with telemetry.span("a", traceparent=SAMPLED) as span:
        assert telemetry.current_traceparent() == SAMPLED
        span.set("key", 1)
        telemetry.record_fault("a", RuntimeError("broken"))


@pytest.mark.usefixtures("recorder")
def test_an_unsampled_span_costs_a_fraction_of_a_sampled_one() -> None:
    def use(traceparent: str) -> float:
        def once() -> None:
            with telemetry.span("a", traceparent=traceparent):
                pass

        return min(timeit.repeat(once, number=300, repeat=7))

    assert use(UNSAMPLED) * 5 < use(SAMPLED)


@pytest.mark.usefixtures("recorder")
async def test_concurrent_requests_keep_their_contexts_apart() -> None:
    async def handle(traceparent: str) -> str:
        with telemetry.span("a", traceparent=traceparent):
            await asyncio.sleep(0.01)
            return telemetry.current_traceparent()

    contexts = [f"00-{number:032x}-{PARENT}-00" for number in range(1, 20)]
    assert await asyncio.gather(*map(handle, contexts)) == contexts


def _line(message: str, *args: object, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("shop").makeRecord("shop", logging.INFO, __file__, 1, message, args, None, extra=extra)
    text = logs.JsonFormatter("inventory").format(record)
    assert "\n" not in text
    line: dict[str, Any] = orjson.loads(text)
    return line


def test_a_log_line_says_which_request_it_is_about() -> None:
    with telemetry.span("a", traceparent=UNSAMPLED):
        line = _line("held %d seats", 3, fields={"event_id": 5})
    assert line["time"].endswith("+00:00")
    del line["time"]
    assert line == {
        "level": "INFO",
        "logger": "shop",
        "message": "held 3 seats",
        "service": "inventory",
        "trace_id": TRACE,
        "span_id": PARENT,
        "event_id": 5,
    }


def test_secrets_and_bodies_are_not_logged() -> None:
    body = auth_pb.LoginRequest(email="a@example.com", password="hunter2")
    fields = {
        "password": "hunter2",
        "admission_token": "hunter2",
        "device_token": "hunter2",
        "payment_method": "hunter2",
        "request": body,
        "raw": b"hunter2",
        "headers": {"Authorization": "Bearer hunter2", "Set-Cookie": "hunter2", "accept": "*/*"},
        "items": [{"password": "hunter2"}, (body, [b"hunter2"])],
    }
    line = _line("x", fields=fields)
    assert "hunter2" not in str(line)
    assert line["password"] == "[secret]"
    assert line["request"] == "<LoginRequest>"
    assert line["headers"]["accept"] == "*/*"


def test_a_line_is_written_whatever_it_is_given() -> None:
    line = _line("x\ny", fields={"set": {1}, "error": ValueError("v"), "surrogate": "\udcff", "big": 2**80})
    assert line["message"] == "x\ny"


def test_fields_cannot_pass_for_what_the_line_itself_says() -> None:
    assert _line("x", fields={"service": "auth", "level": "DEBUG"})["service"] == "inventory"
