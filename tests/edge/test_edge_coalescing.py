"""Concurrent reservations travel as one batch, and stay each other's strangers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from boxoffice.inventory.v1 import booking_service_pb2 as pb
from boxoffice.options.v1 import options_pb2
from boxoffice.queue.v1 import queue_service_pb2 as queue_pb

from edge.transcode.contract import Contract, Operation
from services.common import errors, telemetry
from services.common.coalesce import Coalescer
from tests.edge.world import World, bearer, contract_of, world
from tests.support import eventually

_PATH = "/api/tickets/reserve"


class _SeatsTaken(errors.BoxofficeError):
    reason = "SEATS_TAKEN"


def _outcome(item: pb.BatchReserveItem) -> pb.BatchReserveResult:
    """Holds everything but ticket 13."""
    if 13 in item.request.ticket_ids:
        return pb.BatchReserveResult(error=errors.to_status(_SeatsTaken("ticket 13 is taken", {"ticket_ids": "13"})))
    response = pb.ReserveResponse(
        booking_id=f"{item.request.event_id:x}-{item.user_id}/{item.request.idempotency_key}",
        status=pb.Booking.STATE_PENDING,
        ticket_ids=item.request.ticket_ids,
        replayed=item.request.idempotency_key == "again-again",
    )
    return pb.BatchReserveResult(response=response)


async def _hold(batch: pb.BatchReserveRequest) -> pb.BatchReserveResponse:
    await asyncio.sleep(0.02)
    return pb.BatchReserveResponse(results=[_outcome(item) for item in batch.items])


def _reserve(edge: World, user_id: int, ticket_id: int, key: str = "key-00000001", **headers: str) -> Any:
    headers = {"Idempotency-Key": key, "X-Admission-Token": f"admitted-{user_id}", **headers} | bearer(user_id)
    return edge.answer("POST", _PATH, json={"event_id": 16, "ticket_ids": [ticket_id]}, headers=headers)


async def test_a_reservation(edge: World) -> None:
    edge.backend.scripts["BatchReserve"] = _hold
    parent = telemetry.new_traceparent()
    status, told, response = await _reserve(edge, 7, 99, traceparent=parent)
    assert status == 202
    assert told == {"booking_id": "10-7/key-00000001", "status": "PENDING", "ticket_ids": [99]}
    assert response.headers["Location"] == "/api/tickets/status?booking_id=10-7%2Fkey-00000001"
    assert "Idempotency-Replayed" not in response.headers
    (batch,) = edge.backend.called("BatchReserve")
    (item,) = batch.items
    assert item.user_id == 7
    assert item.request.admission_token == "admitted-7"
    assert telemetry.trace_id_of(item.traceparent) == telemetry.trace_id_of(parent)
    # The batch is nobody's request: no token of one buyer speaks for the others.
    assert "authorization" not in edge.backend.metadata("BatchReserve")


async def test_a_replay_is_marked(edge: World) -> None:
    edge.backend.scripts["BatchReserve"] = _hold
    status, told, response = await _reserve(edge, 7, 99, key="again-again")
    assert (status, response.headers["Idempotency-Replayed"]) == (202, "true")
    assert "replayed" not in told


class _Held:
    """A backend that answers nothing before all of `people` have been read by the edge."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, people: int) -> None:
        self._missing = people
        self._all = asyncio.Event()
        submit = Coalescer.submit

        async def counted(coalescer: Coalescer[Any, Any], item: Any) -> Any:
            self._missing -= 1
            if not self._missing:
                self._all.set()
            return await submit(coalescer, item)

        monkeypatch.setattr(Coalescer, "submit", counted)

    async def hold(self, batch: pb.BatchReserveRequest) -> pb.BatchReserveResponse:
        await self._all.wait()
        return pb.BatchReserveResponse(results=[_outcome(item) for item in batch.items])


async def test_concurrent_reservations_share_batches_and_get_their_own_answer(
    edge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.backend.scripts["BatchReserve"] = _Held(monkeypatch, 80).hold
    answers = await asyncio.gather(*(_reserve(edge, user, 100 + user) for user in range(80)))
    for user, (status, told, _) in enumerate(answers):
        assert (status, told["ticket_ids"]) == (202, [100 + user])
        assert told["booking_id"].startswith(f"10-{user}/")
    sizes = [len(batch.items) for batch in edge.backend.called("BatchReserve")]
    assert sum(sizes) == 80
    # Two were on their way while the others came; all of those went next.
    assert len(sizes) <= 3
    assert edge.backend.called("Reserve") == []


class _Gauge:
    """A backend that holds its batches until it is released, and notes how many it had at a time."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self.released = asyncio.Event()

    async def _count(self) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        await self.released.wait()
        self._now -= 1

    async def join(self, batch: queue_pb.BatchJoinQueueRequest) -> queue_pb.BatchJoinQueueResponse:
        await self._count()
        place = queue_pb.Place(state=queue_pb.Place.STATE_WAITING)
        answer = queue_pb.BatchJoinQueueResult(response=queue_pb.JoinQueueResponse(place=place))
        return queue_pb.BatchJoinQueueResponse(results=[answer for _ in batch.items])

    async def hold(self, batch: pb.BatchReserveRequest) -> pb.BatchReserveResponse:
        await self._count()
        return pb.BatchReserveResponse(results=[_outcome(item) for item in batch.items])

    async def second_call(self, call: Callable[[int], Awaitable[Any]]) -> list[Any]:
        """Makes one call, then another while the batch of the first is held; answers both."""
        first = asyncio.ensure_future(call(1))
        await eventually(lambda: self.most == 1)
        second = asyncio.ensure_future(call(2))
        with contextlib.suppress(AssertionError):  # where batches go one by one it does not come, which takes a while
            await eventually(lambda: self.most == 2, within=timedelta(seconds=0.5))
        self.released.set()
        return [await first, await second]


async def test_joins_arrive_in_order_since_their_batches_go_one_by_one(edge: World) -> None:
    gauge = _Gauge()
    edge.backend.scripts["BatchJoinQueue"] = gauge.join
    answers = await gauge.second_call(
        lambda user: edge.answer("POST", "/api/events/7/queue", json={}, headers=bearer(user))
    )
    assert [status for status, _, _ in answers] == [201, 201]
    assert gauge.most == 1


async def test_control_batches_without_order_overlap(edge: World) -> None:
    gauge = _Gauge()
    edge.backend.scripts["BatchReserve"] = gauge.hold
    await gauge.second_call(lambda user: _reserve(edge, user, 100 + user))
    assert gauge.most == 2


def _without_the_twin() -> Contract:
    """Our contract, as if Reserve had no batch twin."""
    ours = contract_of()
    return replace(ours, operations=[_alone(one) if one.rpc.name == "Reserve" else one for one in ours.operations])


def _alone(operation: Operation) -> Operation:
    policy = options_pb2.MethodPolicy()
    policy.CopyFrom(operation.policy)
    policy.ClearField("batch")
    return replace(operation, policy=policy)


async def test_control_without_the_twin_each_travels_alone() -> None:
    async with world(_without_the_twin()) as edge:
        edge.backend.scripts["BatchReserve"] = _hold
        edge.backend.scripts["Reserve"] = lambda request: pb.ReserveResponse(ticket_ids=request.ticket_ids)
        answers = await asyncio.gather(*(_reserve(edge, user, 100 + user) for user in range(20)))
        assert [told["ticket_ids"] for _, told, _ in answers] == [[100 + user] for user in range(20)]
        assert len(edge.backend.called("Reserve")) == 20
        assert edge.backend.called("BatchReserve") == []


async def test_one_refusal_does_not_fail_the_others(edge: World) -> None:
    edge.backend.scripts["BatchReserve"] = _hold
    answers = await asyncio.gather(*(_reserve(edge, user, 13 if user % 4 == 0 else 50 + user) for user in range(24)))
    assert Counter(status for status, _, _ in answers) == {202: 18, 409: 6}
    refused = next(told for status, told, _ in answers if status == 409)
    assert (refused["code"], refused["metadata"]) == ("SEATS_TAKEN", {"ticket_ids": "13"})
    assert refused["detail"] == "ticket 13 is taken"


async def test_a_batch_that_fails_fails_all_of_it(edge: World) -> None:
    async def fail(_batch: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "items: too many")

    edge.backend.scripts["BatchReserve"] = fail
    answers = await asyncio.gather(*(_reserve(edge, user, user) for user in range(10)))
    assert {(status, told["code"]) for status, told, _ in answers} == {(503, "UNAVAILABLE")}
    assert all(int(response.headers["Retry-After"]) >= 1 for _, _, response in answers)
    assert "too many" not in str(answers)


async def test_a_backend_that_is_away_fails_all(edge: World) -> None:
    # One call first, so that the keys of the tokens are known.
    edge.backend.scripts["BatchReserve"] = _hold
    await _reserve(edge, 0, 1)
    await edge.backend.stop()
    answers = await asyncio.gather(*(_reserve(edge, user, user) for user in range(10)))
    assert {(status, told["code"]) for status, told, _ in answers} == {(503, "UNAVAILABLE")}


async def test_a_batch_with_too_few_answers_gives_nobody_the_answer_of_another(edge: World) -> None:
    edge.backend.scripts["BatchReserve"] = lambda _batch: pb.BatchReserveResponse()
    status, told, _ = await _reserve(edge, 1, 1)
    assert (status, told["code"]) == (500, "INTERNAL")
