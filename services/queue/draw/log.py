"""Draws in the event log, on the topic `queue.draws`: where no loss of Redis reaches them.

Whoever holds a draw writes an *attempt*: the closed list in parts, then the outcome. The first attempt of an event that
has an outcome, in the order of the log, is the draw, for everyone and for ever. All other attempts count for nothing.
"""

import asyncio
from collections import defaultdict
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from boxoffice.queue.v1 import queue_events_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.eventlog.port import Entry, EventLog, EventLogUnavailable, EventLogWriter
from services.common.eventlog.topics import QUEUE_DRAWS
from services.queue.draw.entrants import Entrants
from services.queue.draw.outcome import Outcome

# Parts of a list that are on their way to the log at a time: about half a megabyte.
_PARTS: Final = 10


class DrawLog:
    """Attempts, written and read."""

    def __init__(self, log: EventLog, writer: EventLogWriter) -> None:
        self._log = log
        self._writer = writer

    async def find(self, event_id: int, since: datetime | None = None) -> tuple[Outcome, Entrants] | None:
        """The draw of an event and its list; None while it has none. Raises EventLogUnavailable.

        What was written before `since` is not read: the topic has all draws that ever were.
        """
        attempts: dict[str, list[pb.DrawEntrants]] = defaultdict(list)
        async with aclosing(self._log.read_all(QUEUE_DRAWS, key=str(event_id), since=since)) as records:
            async for record in records:
                told = pb.DrawRecord.FromString(record.value)
                await asyncio.sleep(0)  # the others go on between two parts of a long list
                if told.WhichOneof("content") == "entrants":
                    attempts[told.attempt].append(told.entrants)
                elif sum(len(part.user_ids) for part in attempts[told.attempt]) == told.outcome.entrant_count:
                    return _unpack(told.outcome), await _joined(attempts[told.attempt])
        return None

    async def append_list(self, event_id: int, attempt: str, entrants: Entrants) -> None:
        """Writes the list of an attempt, and returns when the log has it. Raises EventLogUnavailable."""
        waiting: list[Entry] = []
        for users, lanes in entrants.parts():
            part = pb.DrawEntrants(user_ids=users, lanes=lanes)
            waiting.append(_entry(pb.DrawRecord(event_id=event_id, attempt=attempt, entrants=part)))
            await asyncio.sleep(0)  # ten parts at once would hold up the others for 30 ms
            if len(waiting) == _PARTS:
                await self._writer.append_many(QUEUE_DRAWS, waiting)
                waiting = []
        await self._writer.append_many(QUEUE_DRAWS, waiting)

    async def append_outcome(self, event_id: int, attempt: str, outcome: Outcome) -> None:
        """Completes an attempt. Raises EventLogUnavailable, and then may have done so."""
        record = pb.DrawRecord(event_id=event_id, attempt=attempt, outcome=_pack(outcome))
        await self._writer.append_many(QUEUE_DRAWS, [_entry(record)])

    async def decided(self, event_id: int, since: datetime | None = None) -> tuple[Outcome, Entrants]:
        """The draw of an event of which an attempt was acknowledged, as `find` does. Raises EventLogUnavailable."""
        found = await self.find(event_id, since)
        if found is None:  # a broker that took over may not know yet how far it may tell
            raise EventLogUnavailable("an acknowledged draw cannot be read back yet")
        return found


def _entry(record: pb.DrawRecord) -> Entry:
    return str(record.event_id), record.SerializeToString(), {}


async def _joined(parts: list[pb.DrawEntrants]) -> Entrants:
    entrants = Entrants()
    for part in parts:
        entrants.extend(part.user_ids, part.lanes)
        await asyncio.sleep(0)
    return entrants


def _pack(outcome: Outcome) -> pb.DrawOutcome:
    close_time = Timestamp()
    close_time.FromDatetime(outcome.close_time)
    return pb.DrawOutcome(
        close_time=close_time,
        entrant_count=outcome.entrant_count,
        list_digest=outcome.list_digest,
        draw_key=outcome.key,
        seed=outcome.seed,
    )


def _unpack(message: pb.DrawOutcome) -> Outcome:
    return Outcome(
        close_time=message.close_time.ToDatetime(tzinfo=UTC),
        entrant_count=message.entrant_count,
        list_digest=message.list_digest,
        seed=message.seed,
        key=message.draw_key,
    )
