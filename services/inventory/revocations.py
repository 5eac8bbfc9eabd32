"""Admissions that ended before their time: who left the line gave the slot on, and reserves nothing any more."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from boxoffice.queue.v1 import queue_events_pb2 as pb
from redis.asyncio import Redis

from services.common.eventlog import Record
from services.inventory import holds, records

# A group of its own: all members of a group read the same topics.
GROUP: Final = "inventory-admissions"
# A token that has ended is refused by its own end, on a clock that is not far from the one here.
_CLOCKS_APART: Final = timedelta(minutes=1)
# Longer than any admission: an event of which nobody leaves any more is forgotten.
_KEEP: Final = timedelta(minutes=15)


class Revocation(NamedTuple):
    """An admission that has ended: its event, what its tokens are known by, and when those would have ended."""

    event_id: int
    token_id: str
    expire_time: datetime


class Revocations:
    """Keeps, beside the seats, which admissions have ended. The hold script looks there, in the step that holds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def handle(self, facts: list[Record]) -> None:
        """Takes records of `queue.events`, for `eventlog.consume`. Safe to repeat. Raises DecodeError."""
        now = datetime.now(tz=UTC)
        ended = [each for record in facts for each in parse(record)]
        await self.revoke([each for each in ended if each.expire_time + _CLOCKS_APART > now])

    async def revoke(self, ended: Sequence[Revocation]) -> None:
        """From when this returns on nothing is held for these admissions: one pipeline."""
        by_event: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for each in ended:
            by_event[each.event_id][each.token_id] = records.to_ms(each.expire_time + _CLOCKS_APART)
        if not by_event:
            return
        now_ms = records.to_ms(datetime.now(tz=UTC))
        async with self._redis.pipeline(transaction=False) as pipe:
            for event_id, tokens in by_event.items():
                revoked = holds.key(event_id, "revoked")
                pipe.zadd(revoked, tokens)
                pipe.zremrangebyscore(revoked, "-inf", now_ms)
                pipe.pexpire(revoked, _KEEP)
            await pipe.execute()


def parse(record: Record) -> Iterator[Revocation]:
    """Admissions that ended by a fact of the line. Raises DecodeError."""
    for event in pb.QueueEvents.FromString(record.value).events:
        match event.WhichOneof("fact"):
            case "place_left":
                ended: pb.PlaceLeft | pb.PlaceDone = event.place_left
            case "place_done":
                ended = event.place_done
            case _:
                continue
        if ended.admission_token_id:
            expire_time = ended.admission_expire_time.ToDatetime(UTC)
            yield Revocation(event.event_id, ended.admission_token_id, expire_time)
