"""Whose traces are kept is our decision, at the door, whatever a client asks for."""

from collections.abc import Iterator

import pytest
from boxoffice.inventory.v1 import event_service_pb2 as pb
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common import telemetry
from tests.edge.world import World

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_SAMPLED, _UNSAMPLED = (f"00-{_TRACE}-b7ad6b7169203331-{flag}" for flag in ("01", "00"))


@pytest.fixture(params=[0.0, 1.0], ids=["none", "all"])
def ratio(request: pytest.FixtureRequest) -> Iterator[float]:
    telemetry.configure("edge", request.param, SimpleSpanProcessor(InMemorySpanExporter()))
    yield request.param
    telemetry.shutdown()


@pytest.mark.parametrize("asked", [_SAMPLED, _UNSAMPLED], ids=["asks for it", "asks not"])
async def test_a_client_keeps_its_trace_id_and_does_not_decide_about_sampling(
    edge: World, ratio: float, asked: str
) -> None:
    edge.backend.scripts["GetEvent"] = lambda _: pb.GetEventResponse(event=pb.Event(event_id=1))
    status, _, _ = await edge.answer("GET", "/api/events/1", headers={"traceparent": asked})

    sent = edge.backend.metadata("GetEvent")["traceparent"]
    assert status == 200
    assert telemetry.trace_id_of(sent) == _TRACE
    assert telemetry.is_sampled(sent) is (ratio == 1.0)
