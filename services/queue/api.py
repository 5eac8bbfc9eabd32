"""QueueService: unpacks requests, calls the waiting room, packs answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from itertools import repeat
from typing import Any, Final

from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from grpc.aio import ServicerContext

from services.common import errors
from services.common.caller import call_var, current_caller
from services.common.errors import InvalidArgument
from services.common.interceptors import report
from services.common.validation import check_required
from services.queue import packing
from services.queue.digest.feed import DigestFeed
from services.queue.door import Door, Knock
from services.queue.draw.desk import DrawDesk
from services.queue.line.domain import Mode
from services.queue.waiting_room import WaitingRoom

_LARGEST_BATCH: Final = 256
_MODES: Final[dict[int, Mode]] = {number: mode for mode, number in packing.MODES.items()}


Context = ServicerContext[Any, Any]


class QueueApi(rpc.QueueServiceServicer):
    """The RPCs of queue; their promises are in the proto."""

    def __init__(self, room: WaitingRoom, door: Door, digests: DigestFeed, draws: DrawDesk) -> None:
        self._room = room
        self._door = door
        self._digests = digests
        self._draws = draws

    async def JoinQueue(self, request: pb.JoinQueueRequest, context: Context) -> pb.JoinQueueResponse:
        user_id, call = current_caller().user_id, call_var.get()
        (verdict,) = await self._door.judge([self._knock(request, user_id, call.client_address if call else "")])
        if verdict.refusal:
            raise verdict.refusal
        response = await self._join(request, user_id)
        if response.already_joined:
            await self._door.found([verdict])
        return response

    async def BatchJoinQueue(self, request: pb.BatchJoinQueueRequest, context: Context) -> pb.BatchJoinQueueResponse:
        _check_size(request.items)
        knocks = [self._knock(item.request, item.user_id, item.client_address) for item in request.items]
        verdicts = await self._door.judge(knocks)
        answers = await _each(self._join, request.items, [verdict.refusal for verdict in verdicts])
        pairs = zip(verdicts, answers, strict=True)
        await self._door.found(verdict for verdict, answer in pairs if _found(answer))
        return pb.BatchJoinQueueResponse(results=[pb.BatchJoinQueueResult(**answer) for answer in answers])

    def _knock(self, request: pb.JoinQueueRequest, user_id: int, client_address: str) -> Knock:
        has_proof = self._room.is_proven(request.event_id, user_id, request.signed_place)
        return Knock(request.event_id, user_id, client_address, request.challenge_response, has_proof)

    async def _join(self, request: pb.JoinQueueRequest, user_id: int) -> pb.JoinQueueResponse:
        outcome = await self._room.join(request.event_id, user_id, request.signed_place)
        return pb.JoinQueueResponse(
            place=packing.place(request.event_id, outcome.place),
            signed_place=outcome.signed_place,
            already_joined=outcome.already_joined,
        )

    async def GetPlace(self, request: pb.GetPlaceRequest, context: Context) -> pb.GetPlaceResponse:
        return await self._place(request, current_caller().user_id)

    async def BatchGetPlace(self, request: pb.BatchGetPlaceRequest, context: Context) -> pb.BatchGetPlaceResponse:
        answers = await _each(self._place, request.items)
        return pb.BatchGetPlaceResponse(results=[pb.BatchGetPlaceResult(**answer) for answer in answers])

    async def _place(self, request: pb.GetPlaceRequest, user_id: int) -> pb.GetPlaceResponse:
        place = await self._room.place(request.event_id, user_id)
        return pb.GetPlaceResponse(place=packing.place(request.event_id, place))

    async def WatchPlace(self, request: pb.WatchPlaceRequest, context: Context) -> AsyncIterator[pb.WatchPlaceResponse]:
        async for place in self._room.watch(request.event_id, current_caller().user_id):
            yield pb.WatchPlaceResponse(place=packing.place(request.event_id, place))

    async def WatchDigest(
        self, request: pb.WatchDigestRequest, context: Context
    ) -> AsyncIterator[pb.WatchDigestResponse]:
        async with aclosing(self._digests.follow(request.event_id)) as digests:
            async for digest in digests:
                yield digest

    async def ClaimPlace(self, request: pb.ClaimPlaceRequest, context: Context) -> pb.ClaimPlaceResponse:
        outcome = await self._room.claim(request.event_id, current_caller().user_id)
        return pb.ClaimPlaceResponse(
            place=packing.place(request.event_id, outcome.place),
            admission_token=outcome.admission_token,
            admission_expire_time=packing.stamp(outcome.admission_expire_time),
        )

    async def LeaveQueue(self, request: pb.LeaveQueueRequest, context: Context) -> pb.LeaveQueueResponse:
        await self._room.leave(request.event_id, current_caller().user_id)
        return pb.LeaveQueueResponse()

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Context) -> pb.GetReceiptResponse:
        receipt = await self._draws.receipt(request.event_id, current_caller().user_id)
        return pb.GetReceiptResponse(receipt=receipt)

    async def GetDraw(self, request: pb.GetDrawRequest, context: Context) -> pb.GetDrawResponse:
        return await self._draws.draw(request.event_id)

    async def ListEntrants(self, request: pb.ListEntrantsRequest, context: Context) -> pb.ListEntrantsResponse:
        return await self._draws.entrants(request.event_id, request.page_size, request.page_token)

    async def GetQueuePolicy(self, request: pb.GetQueuePolicyRequest, context: Context) -> pb.GetQueuePolicyResponse:
        return pb.GetQueuePolicyResponse(policy=packing.policy(await self._room.policy(request.event_id)))

    async def UpdateQueuePolicy(
        self, request: pb.UpdateQueuePolicyRequest, context: Context
    ) -> pb.UpdateQueuePolicyResponse:
        policy = await self._room.update_policy(request.event_id, current_caller().user_id, _changes(request))
        return pb.UpdateQueuePolicyResponse(policy=packing.policy(policy))


def _check_size(items: Sequence[Any]) -> None:
    if not 1 <= len(items) <= _LARGEST_BATCH:
        raise InvalidArgument("items", f"1 to {_LARGEST_BATCH} items")


def _found(answer: Mapping[str, Any]) -> bool:
    """Whether a join found its place standing."""
    return "response" in answer and bool(answer["response"].already_joined)


async def _each(
    answer: Callable[[Any, int], Awaitable[Any]],
    items: Sequence[Any],
    refusals: Iterable[Exception | None] = repeat(None),
) -> list[dict[str, Any]]:
    """The results of a batch, as fields of their messages. What the items ask of Redis travels in one pipeline."""
    _check_size(items)

    async def one(item: Any, refused: Exception | None) -> dict[str, Any]:
        try:
            if refused is not None:
                raise refused  # noqa: TRY301 - told as every other refusal
            check_required(item.request)
            return {"response": await answer(item.request, item.user_id)}
        except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns one item
            problem = errors.describe(refusal)
            report(refusal, problem, type(item).__name__)
            return {"error": errors.status_of(problem)}

    return await asyncio.gather(*map(one, items, refusals))


def _changes(request: pb.UpdateQueuePolicyRequest) -> dict[str, Any]:
    """What the request sets, by attribute of Policy."""
    changes: dict[str, Any] = {}
    if request.HasField("mode"):
        changes["mode"] = _mode(request.mode)
    if request.HasField("rate_per_second"):
        changes["rate_per_second"] = request.rate_per_second
    if request.HasField("inside_cap"):
        changes["inside_cap"] = request.inside_cap
    if request.HasField("claim_window_seconds"):
        changes["claim_window"] = timedelta(seconds=request.claim_window_seconds)
    if request.HasField("admission_seconds"):
        changes["admission"] = timedelta(seconds=request.admission_seconds)
    return changes


def _mode(number: int) -> Mode:
    if number not in _MODES:
        raise InvalidArgument("mode", "mode must be MODE_OPEN, MODE_HOLD or MODE_DRAIN")
    return _MODES[number]
