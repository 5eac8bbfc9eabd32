"""Queue as a line needs it, scripted: digests when a test says so, answers about places, and a count of every look."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.common import errors
from tests.edge.world import Event, World, bearer, events

EVENT = 7
ME = f"/api/events/{EVENT}/queue/me"
STREAM = f"/api/events/{EVENT}/queue/stream"
# A time of joining in µs; people are a second apart.
_AGAIN_SECONDS = 0.05
FIRST = 1_700_000_000_000_000
SECOND = 1_000_000


class PlaceNotFound(errors.BoxofficeError):
    reason = "PLACE_NOT_FOUND"


def score_of(user_id: int) -> int:
    """Account 1 came first, then account 2."""
    return FIRST + user_id * SECOND


def forecast(position: int, per_person: float = 2.0, odds: float | None = None) -> pb.Forecast:
    p50 = position * per_person
    return pb.Forecast(
        position=position,
        eta_p10_seconds=p50 / 2,
        eta_p50_seconds=p50,
        eta_p90_seconds=p50 * 2,
        odds=odds,
        poll_after_ms=1_000 + position,
    )


def lane_of(
    user_ids: Iterable[int],
    *,
    watermark: int = 0,
    lane: int = 0,
    odds: float | None = None,
    per_person: float = 2.0,
) -> pb.LaneDigest:
    """A lane in which these accounts wait."""
    scores = sorted(map(score_of, user_ids))
    # The last one of every so many behind the front, and the end of the lane.
    step = max(1, (len(scores) - 1_000) // 1_000)
    ranks = sorted({*range(999 + step, len(scores), step), len(scores) - 1}) if len(scores) > 1_000 else []
    return pb.LaneDigest(
        lane=lane,
        name="general" if lane == 0 else f"lane {lane}",
        waiting=len(scores),
        watermark=watermark,
        front=scores[:1_000],
        samples=[scores[rank] for rank in ranks],
        sample_positions=[rank + 1 for rank in ranks],
        forecast=[forecast(position, per_person, odds) for position in (1, max(2, len(scores)))],
    )


def digest_of(*lanes: pb.LaneDigest, **more: Any) -> pb.WatchDigestResponse:
    told = {
        "incarnation": 5,
        "sale_state": pb.SALE_STATE_OPEN,
        "total_waiting": sum(lane.waiting for lane in lanes),
        "seats_left": 400,
        **more,
    }
    return pb.WatchDigestResponse(lanes=lanes, **told)


def waiting(user_id: int, position: int = 1, **more: Any) -> pb.Place:
    """As queue answers for someone who waits."""
    join_time = Timestamp()
    join_time.FromMicroseconds(score_of(user_id))
    told: dict[str, Any] = {
        "event_id": EVENT,
        "state": pb.Place.STATE_WAITING,
        "position": position,
        "ahead": max(position - 1, 0),
        "total_waiting": 1,
        "sale_state": pb.SALE_STATE_OPEN,
        "poll_after_ms": 1_000,
        "join_time": join_time,
        "lane_name": "general",
        "score": score_of(user_id),
        **more,
    }
    return pb.Place(**told)


def ready(user_id: int, **more: Any) -> pb.Place:
    expires = Timestamp(seconds=int(time.time()) + 60)
    return waiting(user_id, 0, state=pb.Place.STATE_READY, claim_expire_time=expires, **more)


@dataclass
class FakeQueue:
    """Plays queue for the event. People wait in the order of their account numbers unless `places` says otherwise."""

    edge: World
    places: dict[int, pb.Place | Exception] = field(default_factory=dict)
    # Looks by account.
    looks: Counter[int] = field(default_factory=Counter)
    batches: int = 0
    streams: int = 0
    # Whether there are no digests for now.
    is_silent: bool = False
    # What open digest streams shall end with.
    failure: Exception | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    _digests: list[pb.WatchDigestResponse] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def play(self) -> None:
        self.answers.set()
        self.edge.backend.scripts |= {
            "WatchDigest": self._watch_digest,
            "BatchGetPlace": self._look,
            "BatchJoinQueue": self._join,
        }

    async def publish(self, digest: pb.WatchDigestResponse) -> None:
        """Sends a digest to every edge that follows, and to those that come."""
        async with self._news:
            self._digests.append(digest)
            self._news.notify_all()

    async def break_streams(self, failure: Exception) -> None:
        async with self._news:
            self.failure = failure
            self._news.notify_all()

    async def _watch_digest(self, request: pb.WatchDigestRequest) -> AsyncIterator[pb.WatchDigestResponse]:
        """What is published, and the newest again and again, as queue does each second."""
        assert request.event_id == EVENT
        self.streams += 1
        told = max(len(self._digests) - 1, 0)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS), self._news:
                    while len(self._digests) <= told and not self.failure:
                        await self._news.wait()
            if self.failure:
                raise self.failure
            if self._digests and not self.is_silent:
                told = min(told + 1, len(self._digests))
                digest = self._digests[told - 1]
                digest.time.GetCurrentTime()
                yield digest

    async def _look(self, batch: pb.BatchGetPlaceRequest) -> pb.BatchGetPlaceResponse:
        self.batches += 1
        self.looks.update(item.user_id for item in batch.items)
        answers = [self.places.get(item.user_id, waiting(item.user_id, item.user_id)) for item in batch.items]
        await self.answers.wait()
        return pb.BatchGetPlaceResponse(results=[_result(answer) for answer in answers])

    def _join(self, batch: pb.BatchJoinQueueRequest) -> pb.BatchJoinQueueResponse:
        responses = [pb.JoinQueueResponse(place=waiting(item.user_id, item.user_id)) for item in batch.items]
        return pb.BatchJoinQueueResponse(results=[pb.BatchJoinQueueResult(response=each) for each in responses])


def _result(answer: pb.Place | Exception) -> pb.BatchGetPlaceResult:
    if isinstance(answer, Exception):
        return pb.BatchGetPlaceResult(error=errors.to_status(answer))
    return pb.BatchGetPlaceResult(response=pb.GetPlaceResponse(place=answer))


class Follower:
    """Someone who follows the stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self._events = events(response)

    async def event(self, seconds: float = 5) -> Event:
        async with asyncio.timeout(seconds):
            return await anext(self._events)

    async def place(self, seconds: float = 5) -> Any:
        """The place that is told next."""
        told = await self.event(seconds)
        assert told.event == "message", told
        return json.loads(told.data)["place"]

    async def rest(self) -> list[Event]:
        async with asyncio.timeout(5):
            return [event async for event in self._events]


@asynccontextmanager
async def following(edge: World, user_id: int) -> AsyncIterator[Follower]:
    async with edge.request("GET", STREAM, headers=bearer(user_id)) as response:
        assert response.status == 200, await response.text()
        yield Follower(response)


async def look(edge: World, user_id: int) -> Any:
    """The place as GetPlace tells it."""
    status, told, _ = await edge.answer("GET", ME, headers=bearer(user_id))
    assert status == 200, told
    return told["place"]
