"""A whole queue process and a crowd that carries its places, for losing Redis under them."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import grpc
from boxoffice.queue.v1 import queue_events_pb2 as events_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc

from services.common import draw
from services.common.errors import from_rpc_error, from_status
from services.common.eventlog.port import EventLog
from services.common.eventlog.topics import QUEUE_EVENTS
from tests.queue.neighbours import bearer
from tests.support import eventually

T = TypeVar("T")

EVENT = 7
OPERATOR = bearer(999_999_999, "operator")
FANS = 1
_BATCH = 250
_PATIENCE = timedelta(seconds=60)


@dataclass
class Crowd:
    """Accounts with what they hold: a signed place, and the admission tokens that they were given."""

    stub: "rpc.QueueServiceAsyncStub"
    proofs: dict[int, str] = field(default_factory=dict)
    lanes: dict[int, int] = field(default_factory=dict)
    # Score by account; 0 for who was in the draw, until `learn_draw`.
    scores: dict[int, int] = field(default_factory=dict)
    tokens: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    # Somebody's place, called and not claimed, before Redis was lost.
    called_before: pb.Place = field(default_factory=pb.Place)

    async def passes(self, users: Sequence[int]) -> dict[int, str]:
        """Lane passes for some accounts."""
        request = pb.IssueLanePassesRequest(event_id=EVENT, lane=FANS, user_ids=users)
        answer = await self.stub.IssueLanePasses(request, metadata=OPERATOR)
        return {each.user_id: each.lane_pass for each in answer.passes}

    async def join(self, users: Sequence[int], passes: dict[int, str]) -> None:
        """Joins in this order, and keeps what is answered."""
        for batch in _batches(users):
            await self._join(batch, [{"lane_pass": passes.get(user, "")} for user in batch])

    async def come_back(self, users: Iterable[int], seed: int = 1) -> None:
        """Joins with the signed places, in whatever order, at once."""
        shuffled = list(users)
        random.Random(seed).shuffle(shuffled)

        async def restore(batch: list[int]) -> None:
            await self._join(batch, [{"signed_place": self.proofs[user]} for user in batch])

        await asyncio.gather(*map(restore, _batches(shuffled)))

    async def _join(self, users: Sequence[int], wishes: Sequence[dict[str, str]]) -> None:
        """What is not there yet is asked again, as clients do."""
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            while users:
                again = []
                results = await self._send(users, wishes)
                for user, wish, result in zip(users, wishes, results, strict=True):
                    if result.HasField("error"):
                        assert from_status(result.error)[0] == "UNAVAILABLE", result.error
                        again.append((user, wish))
                    else:
                        self._keep(user, result.response)
                users, wishes = [user for user, _ in again], [wish for _, wish in again]

    async def _send(self, users: Sequence[int], wishes: Sequence[dict[str, str]]) -> list[pb.BatchJoinQueueResult]:
        items = [
            pb.BatchJoinQueueItem(user_id=user, request=pb.JoinQueueRequest(event_id=EVENT, **wish))
            for user, wish in zip(users, wishes, strict=True)
        ]
        return list((await self.stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=items))).results)

    def _keep(self, user: int, answer: pb.JoinQueueResponse) -> None:
        if user not in self.scores:
            self.scores[user], self.lanes[user] = answer.place.score, answer.place.lane
            self.proofs[user] = answer.signed_place

    async def learn_draw(self) -> None:
        """Computes what everyone drew, as anybody can."""

        async def held() -> pb.GetDrawResponse | None:
            told = await self.stub.GetDraw(pb.GetDrawRequest(event_id=EVENT))
            return told if told.state == pb.GetDrawResponse.STATE_HELD else None

        told = await eventually(held, within=_PATIENCE)
        assert told
        key = bytes.fromhex(told.draw_key)
        for user, score in self.scores.items():
            if not score:
                self.scores[user] = draw.score(key, user)

    async def claim(self, user: int) -> str:
        """Claims until there is a definite answer; the token, or the reason of the refusal."""
        request = pb.ClaimPlaceRequest(event_id=EVENT)
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            while True:
                try:
                    answer = await self.stub.ClaimPlace(request, metadata=bearer(user))
                except grpc.aio.AioRpcError as error:
                    reason = from_rpc_error(error)[0]
                    if reason != "UNAVAILABLE":
                        return reason
                    await asyncio.sleep(0.05)
                else:
                    self.tokens[user].add(answer.admission_token)
                    return answer.admission_token

    async def place(self, user: int) -> pb.Place:
        """One place as its owner sees it."""
        answer = await self.stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(user))
        return answer.place

    async def policy(self, **changes: Any) -> pb.QueuePolicy:
        """Changes how the line is run; answers how it is."""
        request = pb.UpdateQueuePolicyRequest(event_id=EVENT, **changes)
        return (await self.stub.UpdateQueuePolicy(request, metadata=OPERATOR)).policy

    def in_order(self, users: Iterable[int], lane: int) -> list[int]:
        """Who of them is in a lane, in the order of the lane."""
        return sorted((user for user in users if self.lanes[user] == lane), key=self.scores.__getitem__)


@dataclass
class Story:
    """What the log tells of a line."""

    # (account, lane, score, when) of every first call, in the order in which they were called.
    called: list[tuple[int, int, int, datetime]]
    # When an account was admitted, each admission once.
    admitted: dict[int, set[datetime]]

    def since(self, moment: datetime, lane: int) -> list[int]:
        """Who was called for the first time after that."""
        return [user for user, at, _, when in self.called if when > moment and at == lane]


async def story(log: EventLog) -> Story:
    """Everything that the log has now; repeats of a fact count once."""
    told, seen = Story([], defaultdict(set)), set()
    async for record in log.read_all(QUEUE_EVENTS, key=str(EVENT)):
        for fact in events_pb.QueueEvents.FromString(record.value).events:
            if fact.id in seen:
                continue
            seen.add(fact.id)
            when = fact.time.ToDatetime(UTC)
            if fact.WhichOneof("fact") == "place_called" and fact.place_called.calls == 1:
                call = fact.place_called
                told.called.append((call.user_id, call.lane, call.score, when))
            elif fact.WhichOneof("fact") == "place_admitted":
                told.admitted[fact.place_admitted.user_id].add(when)
    return told


def _batches(users: Sequence[T]) -> list[list[T]]:
    return [list(users[start : start + _BATCH]) for start in range(0, len(users), _BATCH)]
