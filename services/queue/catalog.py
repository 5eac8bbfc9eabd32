"""What queue knows about sale events: inventory is asked, at most every two seconds for each event."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import grpc
from boxoffice.inventory.v1 import event_service_pb2 as pb
from boxoffice.inventory.v1 import event_service_pb2_grpc as rpc
from cachetools import LRUCache
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import Unavailable, from_rpc_error
from services.queue.line.domain import EventNotFound, Sale

# An organizer who moves the opening is heard within this time.
_FRESH_SECONDS: Final = 2.0
# Inventory is not asked in vain more often than this.
_RETRY_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 1.0
# Events that are remembered. Of made-up ones there are as many as anybody likes; they push out each other only.
_MAX_EVENTS: Final = 10_000
_MAX_MADE_UP: Final = 1_000
_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """What was heard last. `sale` is None where inventory knows no such event."""

    sale: Sale | None
    fresh_until: float


class EventCatalog:
    """Sales by event. While inventory is away, what it said last stands."""

    def __init__(self, stub: "rpc.EventServiceAsyncStub", clock: Callable[[], float] = time.monotonic) -> None:
        self._stub = stub
        self._clock = clock
        self._entries: LRUCache[int, _Entry] = LRUCache(_MAX_EVENTS)
        self._made_up: LRUCache[int, _Entry] = LRUCache(_MAX_MADE_UP)
        self._asking: dict[int, asyncio.Task[_Entry]] = {}

    async def sale(self, event_id: int) -> Sale:
        """When people are called. Raises EventNotFound, or Unavailable (inventory is away and never told)."""
        entry = self._known(event_id)
        if entry is None or self._clock() >= entry.fresh_until:
            entry = await self._ask_once(event_id)
        if entry.sale is None:
            raise EventNotFound
        return entry.sale

    def _known(self, event_id: int) -> _Entry | None:
        return self._entries.get(event_id) or self._made_up.get(event_id)

    def _keep(self, event_id: int, entry: _Entry) -> None:
        kept, other = (self._made_up, self._entries) if entry.sale is None else (self._entries, self._made_up)
        other.pop(event_id, None)
        kept[event_id] = entry

    async def _ask_once(self, event_id: int) -> _Entry:
        # One question for all who want to know; it must not end because one of them goes away.
        task = self._asking.get(event_id)
        if task is None:
            # In an empty context, so that the first one's deadline does not bound the others.
            task = asyncio.get_running_loop().create_task(self._ask(event_id), context=contextvars.Context())
            self._asking[event_id] = task
            task.add_done_callback(lambda done: self._answered(event_id, done))
        return await asyncio.shield(task)

    def _answered(self, event_id: int, task: asyncio.Task[_Entry]) -> None:
        del self._asking[event_id]
        if not task.cancelled():
            task.exception()  # Seen, even when everyone who asked has gone.

    async def _ask(self, event_id: int) -> _Entry:
        known = self._known(event_id)
        try:
            answer = await self._stub.GetEvent(pb.GetEventRequest(event_id=event_id), timeout=_TIMEOUT_SECONDS)
            entry = _Entry(_sale(answer.event), self._clock() + _FRESH_SECONDS)
        except grpc.RpcError as error:
            entry = self._stand_in(known, error)
        self._keep(event_id, entry)
        return entry

    def _stand_in(self, known: _Entry | None, error: grpc.RpcError) -> _Entry:
        reason, _, _ = from_rpc_error(error)
        if reason == EventNotFound.reason:
            return _Entry(None, self._clock() + _FRESH_SECONDS)
        _log.warning("inventory does not answer", extra={"fields": {"reason": reason, "known": known is not None}})
        if known is None:
            raise Unavailable("the event cannot be looked up") from error
        return _Entry(known.sale, self._clock() + _RETRY_SECONDS)


def _sale(event: pb.Event) -> Sale:
    close_time = _moment(event.sale_close_time) if event.HasField("sale_close_time") else _NEVER
    return Sale(open_time=_moment(event.sale_open_time), close_time=close_time)


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
