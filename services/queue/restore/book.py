"""What the event log knows of a line: that it lives, how it is run, and who was called."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from boxoffice.queue.v1 import queue_events_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.eventlog.port import EventLog, EventLogWriter
from services.common.eventlog.topics import QUEUE_EVENTS, QUEUE_LINES
from services.queue import packing
from services.queue.line.domain import PlaceState, Policy
from services.queue.line.times import to_ms
from services.queue.restore.history import History, PastFact

# Records are dated by the clocks of the log or of its writers, lines by Redis'; ours are closer together than this.
_CLOCKS_APART: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a line beside its facts."""

    # Since when the line has lived; None: it never did, and there are no facts.
    since: datetime | None = None
    # How an operator had it run last; None: as lines are run by default.
    policy: Policy | None = None
    # Which of its policies that is.
    version: int = 0


class LineBook:
    """Lines, as the event log remembers them. Every method raises EventLogUnavailable."""

    def __init__(self, log: EventLog, writer: EventLogWriter, commitment_of: Callable[[int], bytes]) -> None:
        self._log = log
        self._writer = writer
        self._commitment_of = commitment_of

    async def memory(self, event_id: int) -> Memory:
        """What is remembered of a line. One small topic is read."""
        since: datetime | None = None
        policy: Policy | None = None
        version = 0
        async with aclosing(self._log.read_all(QUEUE_LINES, key=str(event_id))) as records:
            async for record in records:
                told = pb.LineRecord.FromString(record.value)
                if since is None and told.HasField("time"):
                    since = told.time.ToDatetime(UTC)
                # Two operators may have been told of in the other order than they changed it.
                if told.HasField("policy") and told.policy_version >= version:
                    policy, version = packing.policy_of(told.policy), told.policy_version
        return Memory(since, policy, version)

    async def history(self, event_id: int, since: datetime) -> History:
        """Everyone who was called from this line. Reads a partition of the facts from that time on."""
        history = History()
        facts = self._log.read_all(QUEUE_EVENTS, key=str(event_id), since=since - _CLOCKS_APART)
        async with aclosing(facts) as records:
            async for record in records:
                for event in pb.QueueEvents.FromString(record.value).events:
                    if (fact := past_fact(event)) is not None:
                        history.add(fact)
                # What is buffered comes without a pause, and a large line must not keep the others waiting.
                await asyncio.sleep(0)
        return history

    async def begins(self, event_id: int, now: datetime) -> None:
        """Notes that a line begins to live, and under which commitment of its draw.

        Whoever finds it empty later knows that it was lost, and whoever has another secret later that it was changed.
        """
        commitment = self._commitment_of(event_id)
        await self._append(pb.LineRecord(event_id=event_id, time=packing.stamp(now), commitment=commitment))

    async def runs(self, event_id: int, policy: Policy, version: int) -> None:
        """Notes how a line is run from now on."""
        await self._append(pb.LineRecord(event_id=event_id, policy=packing.policy(policy), policy_version=version))

    async def _append(self, record: pb.LineRecord) -> None:
        await self._writer.append(QUEUE_LINES, str(record.event_id), record.SerializeToString(), {})


def past_fact(event: pb.QueueEvent) -> PastFact | None:
    """A fact of the log as the history of a line takes it; None for a kind that is not known here."""
    order, since_ms = _order(event.id), _ms(event.time)
    match event.WhichOneof("fact"):
        case "place_called":
            called = event.place_called
            until_ms, calls = _ms(called.claim_expire_time), max(1, called.calls)
            return PastFact(
                order, called.user_id, PlaceState.READY, called.lane, called.score, since_ms, until_ms, calls
            )
        case "place_admitted":
            admitted = event.place_admitted
            until_ms = _ms(admitted.admission_expire_time)
            return PastFact(
                order, admitted.user_id, PlaceState.ADMITTED, admitted.lane, admitted.score, since_ms, until_ms
            )
        case "place_left":
            left = event.place_left
            return PastFact(order, left.user_id, PlaceState.LEFT, left.lane, left.score, since_ms, calls=0)
        case "place_done":
            done = event.place_done
            return PastFact(order, done.user_id, PlaceState.DONE, done.lane, done.score, since_ms)
    return None


def _order(fact_id: str) -> tuple[int, int]:
    """Where a fact stood in the outbox of its line: entries of a stream only grow, clocks do not."""
    _, number, rest = fact_id.split("-")
    return int(number), int(rest)


def _ms(stamp: Timestamp) -> int:
    return to_ms(stamp.ToDatetime(UTC))
