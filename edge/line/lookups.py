"""Asks queue for people's places: many in one call, whoever they are for."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.message import Message

from edge.transcode.calls import Item, SendBatch
from services.common import metrics, telemetry
from services.common.coalesce import Coalescer

# The largest batch that the contract allows.
_BATCH: Final = 256


class Lookups:
    """Sends looks as batches: of whoever waits for an answer now, and of whoever watches."""

    def __init__(self, send: SendBatch, *, seconds: float, name: str) -> None:
        self._send = send
        self._seconds = seconds
        self._coalescer: Coalescer[Item, Message] = Coalescer(send, name=name)

    async def one(self, event_id: int, user_id: int, cause: str) -> pb.Place:
        """One person's place, asked for together with others'. Raises Refused, Unavailable, TimeoutError."""
        metrics.LINE_LOOKUPS.labels(cause).inc()
        # Waiting for a place in a batch counts as well.
        async with asyncio.timeout(self._seconds):
            answer = await self._coalescer.submit(_item(event_id, user_id, telemetry.current_traceparent()))
        return _place(answer)

    async def many(
        self, event_id: int, user_ids: Sequence[int]
    ) -> AsyncIterator[list[tuple[int, pb.Place | Exception]]]:
        """Everyone's place or refusal, batch by batch. Raises Unavailable or TimeoutError when one is not answered."""
        remaining = iter(user_ids)
        while batch := list(itertools.islice(remaining, _BATCH)):
            answers = await self._send([_item(event_id, user_id, "") for user_id in batch])
            outcomes = [answer if isinstance(answer, Exception) else _place(answer) for answer in answers]
            yield list(zip(batch, outcomes, strict=True))


def _item(event_id: int, user_id: int, traceparent: str) -> Item:
    return Item(pb.GetPlaceRequest(event_id=event_id), user_id, traceparent, client_address="")


def _place(answer: Message) -> pb.Place:
    assert isinstance(answer, pb.GetPlaceResponse)
    return answer.place
