"""What operators do with a line over a real gRPC server, and what it leaves behind."""

from __future__ import annotations  # the async stub exists for type checkers only

import logging

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc

from tests.queue.calls import EVENT, is_told, join, refused
from tests.queue.neighbours import bearer
from tests.support import eventually


async def test_only_operators_change_the_policy_and_every_change_is_audited(
    stub: rpc.QueueServiceAsyncStub, caplog: pytest.LogCaptureFixture
) -> None:
    hold = pb.UpdateQueuePolicyRequest(event_id=EVENT, mode=pb.QueuePolicy.MODE_HOLD, rate_per_second=3.5)
    assert await refused(stub.UpdateQueuePolicy(hold, metadata=bearer(1, "organizer"))) == "PERMISSION_DENIED"

    with caplog.at_level(logging.INFO, logger="boxoffice.audit"):
        changed = await stub.UpdateQueuePolicy(hold, metadata=bearer(99, "operator"))

    assert (changed.policy.mode, changed.policy.rate_per_second) == (pb.QueuePolicy.MODE_HOLD, 3.5)
    assert (changed.policy.inside_cap, changed.policy.admission_seconds) == (1, 600)
    fields = [record.__dict__["fields"] for record in caplog.records if record.name == "boxoffice.audit"]
    assert [(each["user_id"], each["before"]["mode"], each["after"]["mode"]) for each in fields] == [
        (99, "OPEN", "HOLD")
    ]
    assert (fields[0]["before"]["rate_per_second"], fields[0]["after"]["rate_per_second"]) == (50.0, 3.5)
    await join(stub, 1)
    assert await eventually(lambda: is_told(stub, 1, sale_state=pb.SALE_STATE_HELD))  # after the draw
    read = await stub.GetQueuePolicy(pb.GetQueuePolicyRequest(event_id=EVENT), metadata=bearer(99, "operator"))
    assert read.policy == changed.policy
    for wrong in ({"inside_cap": 0}, {"rate_per_second": 0.01}, {"claim_window_seconds": 5}, {"mode": 0}, {"mode": 77}):
        request = pb.UpdateQueuePolicyRequest(event_id=EVENT, **wrong)
        assert await refused(stub.UpdateQueuePolicy(request, metadata=bearer(99, "operator"))) == "INVALID_ARGUMENT"


def _lanes(*weights: int) -> pb.Lanes:
    return pb.Lanes(lanes=[pb.Lane(lane=lane, name=f"lane {lane}", weight=each) for lane, each in enumerate(weights)])


async def test_an_operator_makes_lanes_and_passes_and_a_pass_moves_a_place(
    stub: rpc.QueueServiceAsyncStub, caplog: pytest.LogCaptureFixture
) -> None:
    operator = bearer(99, "operator")
    ask = pb.IssueLanePassesRequest(event_id=EVENT, lane=1, user_ids=[1, 2])
    assert await refused(stub.IssueLanePasses(ask, metadata=bearer(1))) == "PERMISSION_DENIED"
    assert await refused(stub.IssueLanePasses(ask, metadata=operator)) == "INVALID_ARGUMENT"
    change = pb.UpdateQueuePolicyRequest(event_id=EVENT, mode=pb.QueuePolicy.MODE_HOLD, lanes=_lanes(1, 5))
    changed = await stub.UpdateQueuePolicy(change, metadata=operator)
    assert changed.policy.lanes == _lanes(1, 5).lanes

    with caplog.at_level(logging.INFO, logger="boxoffice.audit"):
        issued = (await stub.IssueLanePasses(ask, metadata=operator)).passes
    assert [each.user_id for each in issued] == [1, 2]
    assert [record.__dict__["fields"]["passes"] for record in caplog.records if record.name == "boxoffice.audit"] == [2]
    first = await join(stub, 1)

    request = pb.JoinQueueRequest(event_id=EVENT, lane_pass=issued[0].lane_pass)
    moved = await stub.JoinQueue(request, metadata=bearer(1))

    assert (moved.already_joined, moved.place.lane, moved.place.lane_name) == (True, 1, "lane 1")
    assert (moved.place.score, moved.place.join_time) == (first.place.score, first.place.join_time)
    stolen = pb.JoinQueueRequest(event_id=EVENT, lane_pass=issued[1].lane_pass)
    assert await refused(stub.JoinQueue(stolen, metadata=bearer(3))) == "LANE_PASS_INVALID"
    gone = pb.UpdateQueuePolicyRequest(event_id=EVENT, lanes=_lanes(1))
    assert await refused(stub.UpdateQueuePolicy(gone, metadata=operator)) == "INVALID_ARGUMENT"
    for lane, users in ((0, [1]), (2, [1]), (1, []), (1, list(range(1, 1_002)))):
        bad = pb.IssueLanePassesRequest(event_id=EVENT, lane=lane, user_ids=users)
        assert await refused(stub.IssueLanePasses(bad, metadata=operator)) == "INVALID_ARGUMENT"
