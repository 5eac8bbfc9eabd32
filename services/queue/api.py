"""QueueService: unpacks requests, calls the waiting room, packs answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from google.rpc import status_pb2
from grpc.aio import ServicerContext

from services.common import errors
from services.common.caller import call_var, current_caller
from services.common.errors import BoxofficeError, InvalidArgument
from services.common.interceptors import report
from services.common.validation import check_required
from services.queue import packing
from services.queue.admission.status import StatusReader
from services.queue.digest.feed import DigestFeed
from services.queue.door import Door, Knock
from services.queue.draw.desk import DrawDesk
from services.queue.line.domain import Mode, Refusal
from services.queue.office import Office
from services.queue.waiting_room import JoinOutcome, JoinWish, WaitingRoom

_LARGEST_BATCH: Final = 256
_MOST_PASSES: Final = 1_000
# JSON numbers are exact up to here, and so are accounts.
_LARGEST_ACCOUNT: Final = 2**53 - 1
_MODES: Final[dict[int, Mode]] = {number: mode for mode, number in packing.MODES.items()}


Context = ServicerContext[Any, Any]


class QueueApi(rpc.QueueServiceServicer):
    """The RPCs of queue; their promises are in the proto."""

    def __init__(
        self,
        room: WaitingRoom,
        *,
        door: Door,
        digests: DigestFeed,
        draws: DrawDesk,
        office: Office,
        statuses: StatusReader,
    ) -> None:
        self._room = room
        self._office = office
        self._door = door
        self._digests = digests
        self._draws = draws
        self._statuses = statuses

    async def JoinQueue(self, request: pb.JoinQueueRequest, context: Context) -> pb.JoinQueueResponse:
        user_id, call = current_caller().user_id, call_var.get()
        (answer,) = await self._join_many([(request, user_id, call.client_address if call else "")])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def BatchJoinQueue(self, request: pb.BatchJoinQueueRequest, context: Context) -> pb.BatchJoinQueueResponse:
        _check_size(request.items)
        answers = await self._join_many([(item.request, item.user_id, item.client_address) for item in request.items])
        return pb.BatchJoinQueueResponse(
            results=[
                pb.BatchJoinQueueResult(error=_refused(answer, "BatchJoinQueueItem"))
                if isinstance(answer, Exception)
                else pb.BatchJoinQueueResult(response=answer)
                for answer in answers
            ]
        )

    async def _join_many(
        self, asked: Sequence[tuple[pb.JoinQueueRequest, int, str]]
    ) -> list[pb.JoinQueueResponse | Exception]:
        """Joins of accounts at addresses, in order. Not a task for each: ten thousand a second come this way."""
        wishes = [self._wish(request, user_id) for request, user_id, _ in asked]
        verdicts = await self._door.judge(
            [_knock(*ask, has_proof=_has_proof(wish)) for ask, wish in zip(asked, wishes, strict=True)]
        )
        judged = [verdict.refusal or wish for verdict, wish in zip(verdicts, wishes, strict=True)]
        outcomes = iter(await self._room.join_many([each for each in judged if not isinstance(each, Exception)]))
        answers = [each if isinstance(each, Exception) else _joined(each, next(outcomes)) for each in judged]
        pairs = zip(verdicts, answers, strict=True)
        await self._door.found(verdict for verdict, answer in pairs if _found(answer))
        return answers

    def _wish(self, request: pb.JoinQueueRequest, user_id: int) -> JoinWish | Exception:
        try:
            check_required(request)
            _check_account("user_id", user_id)
            return self._room.wish(request.event_id, user_id, request.signed_place, request.lane_pass)
        except (BoxofficeError, Refusal) as refusal:
            return refusal

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

    async def IssueLanePasses(self, request: pb.IssueLanePassesRequest, context: Context) -> pb.IssueLanePassesResponse:
        if len(request.user_ids) > _MOST_PASSES:
            raise InvalidArgument("user_ids", f"1 to {_MOST_PASSES} accounts")
        for user_id in request.user_ids:
            _check_account("user_ids", user_id)
        operator = current_caller().user_id
        passes = await self._office.issue_passes(request.event_id, operator, request.lane, request.user_ids)
        pairs = zip(request.user_ids, passes, strict=True)
        return pb.IssueLanePassesResponse(
            passes=[pb.LanePass(user_id=user_id, lane_pass=lane_pass) for user_id, lane_pass in pairs]
        )

    async def GetQueuePolicy(self, request: pb.GetQueuePolicyRequest, context: Context) -> pb.GetQueuePolicyResponse:
        policy = await self._office.policy(request.event_id)
        status = await self._statuses.read(request.event_id, policy)
        return pb.GetQueuePolicyResponse(policy=packing.policy(policy), status=packing.status(status))

    async def UpdateQueuePolicy(
        self, request: pb.UpdateQueuePolicyRequest, context: Context
    ) -> pb.UpdateQueuePolicyResponse:
        policy = await self._office.update_policy(request.event_id, current_caller().user_id, _changes(request))
        return pb.UpdateQueuePolicyResponse(policy=packing.policy(policy))


def _check_size(items: Sequence[Any]) -> None:
    if not 1 <= len(items) <= _LARGEST_BATCH:
        raise InvalidArgument("items", f"1 to {_LARGEST_BATCH} items")


def _check_account(field: str, user_id: int) -> None:
    if not 1 <= user_id <= _LARGEST_ACCOUNT:
        raise InvalidArgument(field, "an account is 1 to 2^53 - 1")


def _knock(request: pb.JoinQueueRequest, user_id: int, client_address: str, *, has_proof: bool) -> Knock:
    return Knock(request.event_id, user_id, client_address, request.challenge_response, has_proof)


def _has_proof(wish: JoinWish | Exception) -> bool:
    return isinstance(wish, JoinWish) and wish.proof is not None


def _joined(wish: JoinWish, outcome: JoinOutcome | Exception) -> pb.JoinQueueResponse | Exception:
    if isinstance(outcome, Exception):
        return outcome
    place = packing.place(wish.event_id, outcome.place)
    return pb.JoinQueueResponse(place=place, signed_place=outcome.signed_place, already_joined=outcome.already_joined)


def _found(answer: pb.JoinQueueResponse | Exception) -> bool:
    """Whether a join found its place standing."""
    return not isinstance(answer, Exception) and answer.already_joined


def _refused(refusal: Exception, where: str) -> status_pb2.Status:
    """What the caller of one item of a batch is told."""
    problem = errors.describe(refusal)
    report(refusal, problem, where)
    return errors.status_of(problem)


async def _each(answer: Callable[[Any, int], Awaitable[Any]], items: Sequence[Any]) -> list[dict[str, Any]]:
    """The results of a batch, as fields of their messages. What the items ask of Redis travels in one pipeline."""
    _check_size(items)

    async def one(item: Any) -> dict[str, Any]:
        try:
            check_required(item.request)
            return {"response": await answer(item.request, item.user_id)}
        except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns one item
            return {"error": _refused(refusal, type(item).__name__)}

    return await asyncio.gather(*map(one, items))


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
    if request.HasField("lanes"):
        changes["lanes"] = packing.lanes(request.lanes.lanes)
    return changes


def _mode(number: int) -> Mode:
    if number not in _MODES:
        raise InvalidArgument("mode", "mode must be MODE_OPEN, MODE_HOLD or MODE_DRAIN")
    return _MODES[number]
