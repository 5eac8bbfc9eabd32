"""What the line keeps in Redis: the only place that spells its keys, and the callers of its scripts.

All keys of an event share the hash tag `{event_id}`, so that they live on one node of a cluster. Every method raises
redis.exceptions.RedisError when Redis does not answer.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from cachetools import TTLCache
from redis.asyncio import Redis

from services.common.coalesce import Coalescer
from services.common.lua import Args, Keys, Script
from services.queue.line import replies
from services.queue.line.domain import Line, Mode, Policy, Sale, Standing
from services.queue.line.replies import Reading
from services.queue.line.transitions import MAX_BATCH, Admission, Call, JoinCommand, Joined, Progress, Purchase, Tick

_LUA: Final = Path(__file__).with_name("lua")
_JOIN: Final = Script.load(_LUA / "join.lua")
_ADMIT: Final = Script.load(_LUA / "admit.lua")
_CLAIM: Final = Script.load(_LUA / "claim.lua")
_LEAVE: Final = Script.load(_LUA / "leave.lua")
_FINISH: Final = Script.load(_LUA / "finish.lua")
_READ: Final = Script.load(_LUA / "read.lua")
_SET_POLICY: Final = Script.load(_LUA / "set_policy.lua")
_SET_PROGRESS: Final = Script.load(_LUA / "set_progress.lua")
_ACTIVATE: Final = Script.load(_LUA / "activate.lua")
_RETIRE: Final = Script.load(_LUA / "retire.lua")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ACTIVE: Final = b"queue:active"
# Places read in one run, likewise.
_READ_CHUNK: Final = 500
# A join arrives at its line well within this time after it was announced.
_QUIET: Final = timedelta(minutes=1)
# How long an announcement is not repeated: well below the quiet time.
_ANNOUNCE_SECONDS: Final = 5.0
# Clocks of our machines are kept closer together than this; nobody joins, claims and buys again in less.
_CLOCK_TOLERANCE: Final = timedelta(seconds=5)

# Fields of the policy hash, and the attributes of Policy that they hold.
_POLICY_ATTRIBUTES: Final = {
    b"mode": "mode",
    b"rate": "rate_per_second",
    b"cap": "inside_cap",
    b"claim_ms": "claim_window",
    b"admission_ms": "admission",
}


def line_key(event_id: int, name: str) -> bytes:
    """A key of an event's line; "users" is the sorted set of the product document."""
    return f"queue:{{{event_id}}}:{name}".encode()


class LineStore:
    """The lines of all events. `defaults` rule a line until an operator changes its policy."""

    def __init__(self, redis: Redis, defaults: Policy) -> None:
        self._redis = redis
        self._defaults = defaults
        self._announced: TTLCache[int, bool] = TTLCache(10_000, _ANNOUNCE_SECONDS, time.monotonic)
        # One batch at a time: two on two connections would race, and places are given in order of arrival.
        self._joins: Coalescer[JoinCommand, Joined] = Coalescer(self._join_many, max_in_flight=1, name="queue-join")
        self._reads: Coalescer[tuple[int, int], tuple[Line, Standing | None]] = Coalescer(
            self._read_pairs, name="queue-read"
        )

    async def join(self, command: JoinCommand) -> Joined:
        """Takes or finds the place, and has the line ticked. Raises SaleClosed, SoldOut. Atomic.

        Concurrent calls travel together, and are carried out in the order in which they came.
        """
        return await self._joins.submit(command)

    async def _join_many(self, commands: list[JoinCommand]) -> list[Joined | Exception]:
        await asyncio.gather(*map(self.announce, {each.event_id for each in commands}))
        calls = [(_keys(_JOIN, each.event_id), self._join_args(each)) for each in commands]
        return [replies.settled(answer, replies.joined) for answer in await _JOIN.call_many(self._redis, calls)]

    def _join_args(self, command: JoinCommand) -> Args:
        return {
            "user_id": command.user_id,
            "close_ms": to_ms(command.sale.close_time),
            "default_mode": self._defaults.mode,
            "restore_score": "" if command.restore_score is None else command.restore_score,
        }

    async def read(self, event_id: int, user_id: int) -> tuple[Line, Standing | None]:
        """The line and one person's place in it, of the same instant. Concurrent calls travel together."""
        return await self._reads.submit((event_id, user_id))

    async def _read_pairs(self, pairs: list[tuple[int, int]]) -> list[tuple[Line, Standing | None] | Exception]:
        wanted: dict[int, list[int]] = {}
        for event_id, user_id in pairs:
            wanted.setdefault(event_id, []).append(user_id)
        readings = await self.read_many(wanted)
        return [replies.one_of(readings[event_id], user_id) for event_id, user_id in pairs]

    async def read_many(self, wanted: Mapping[int, Sequence[int]]) -> dict[int, Reading | Exception]:
        """Lines by event, and places by user, in one pipeline however many are wanted; what failed fails alone."""
        chunks = [
            (event_id, users[start : start + _READ_CHUNK])
            for event_id, users in wanted.items()
            for start in range(0, max(len(users), 1), _READ_CHUNK)
        ]
        rules: Args = {"default_mode": self._defaults.mode, "default_rate": self._defaults.rate_per_second}
        calls = [(_keys(_READ, event_id), {**rules, "user_ids": users}) for event_id, users in chunks]
        readings: dict[int, Reading | Exception] = {}
        for (event_id, users), answer in zip(chunks, await _READ.call_many(self._redis, calls), strict=True):
            part = replies.settled(answer, partial(replies.reading, users=users))
            readings[event_id] = replies.together(readings[event_id], part) if event_id in readings else part
        return readings

    async def claim(self, event_id: int, user_id: int) -> Admission:
        """READY → ADMITTED, or the standing admission. Raises PlaceNotFound, PlaceNotReady. Atomic."""
        args = {"user_id": user_id, "default_admission_ms": span_ms(self._defaults.admission)}
        answer = replies.accepted(await _CLAIM.call(self._redis, keys=_keys(_CLAIM, event_id), args=args))
        until_ms, since_ms, score, fresh = answer
        return Admission(replies.from_ms(until_ms), replies.from_ms(since_ms), int(score), fresh=bool(fresh))

    async def leave(self, event_id: int, user_id: int) -> bool:
        """Ends a live place as LEFT; false when there was none. Atomic."""
        return bool(await _LEAVE.call(self._redis, keys=_keys(_LEAVE, event_id), args={"user_id": user_id}))

    async def finish_many(self, purchases: Sequence[Purchase]) -> int:
        """Ends the places of who has bought as DONE, and counts those that were. Safe to repeat."""
        calls = [(_keys(_FINISH, each.event_id), _finish_args(each)) for each in purchases]
        return sum(replies.value(answer) for answer in await _FINISH.call_many(self._redis, calls))

    async def set_progress_many(self, reports: Sequence[Progress]) -> None:
        """Keeps the newest count of seats of each event. Safe to repeat, in any order."""
        calls = [(_keys(_SET_PROGRESS, each.event_id), _progress_args(each)) for each in reports]
        for answer in await _SET_PROGRESS.call_many(self._redis, calls):
            replies.value(answer)

    async def admit_many(self, sales: Mapping[int, Sale]) -> dict[int, Tick | Exception]:
        """One tick of admission for each event, in one pipeline. Each is atomic, and safe beside other loops.

        An event whose script fails (an operator may have written into Redis by hand) has its error; the others go on.
        """
        calls = [(_keys(_ADMIT, event_id), self._admit_args(sale)) for event_id, sale in sales.items()]
        ticks = [replies.settled(answer, replies.tick) for answer in await _ADMIT.call_many(self._redis, calls)]
        return dict(zip(sales, ticks, strict=True))

    def _admit_args(self, sale: Sale) -> Args:
        return {
            "open_ms": to_ms(sale.open_time),
            "close_ms": to_ms(sale.close_time),
            "default_mode": self._defaults.mode,
            "default_rate": self._defaults.rate_per_second,
            "default_cap": self._defaults.inside_cap,
            "default_claim_ms": span_ms(self._defaults.claim_window),
            "max_batch": MAX_BATCH,
        }

    async def unpublished(self, event_id: int, limit: int) -> list[Call]:
        """The oldest calls that were not forgotten yet, in order."""
        entries: Any = await self._redis.xrange(line_key(event_id, "outbox"), count=limit)
        return [replies.call(event_id, entry_id.decode(), fields) for entry_id, fields in entries]

    async def forget(self, event_id: int, calls: Sequence[Call]) -> None:
        """Drops calls that are published. Safe beside another loop that publishes the same ones."""
        entries = [each.call_id.partition("-")[2] for each in calls]
        await self._redis.xdel(line_key(event_id, "outbox"), *entries)

    async def policy(self, event_id: int) -> Policy:
        """How the line is run now."""
        changed: Any = await self._redis.hgetall(line_key(event_id, "policy"))
        return _policy({**_policy_fields(self._defaults), **changed})

    async def set_policy(self, event_id: int, wanted: Policy, changed: Collection[str]) -> tuple[Policy, Policy]:
        """Sets the attributes `changed` to those of `wanted`; answers the policy before and after. Atomic."""
        changes = {
            field: value for field, value in _policy_fields(wanted).items() if _POLICY_ATTRIBUTES[field] in changed
        }
        flat = [part for change in changes.items() for part in change]
        answer = await _SET_POLICY.call(self._redis, keys=_keys(_SET_POLICY, event_id), args={"changes": flat})
        before = {**_policy_fields(self._defaults), **dict(zip(answer[::2], answer[1::2], strict=True))}
        return _policy(before), _policy({**before, **changes})

    async def announce(self, event_id: int) -> None:
        """As `activate`, unless this process did so in the last seconds."""
        if event_id not in self._announced:
            await self.activate(event_id)
            self._announced[event_id] = True

    async def activate(self, event_id: int) -> None:
        """Has the event ticked from now on. Comes before a join: a crash between them costs some idle ticks."""
        await _ACTIVATE.call(self._redis, keys={"active": _ACTIVE}, args={"event_id": event_id})

    async def retire(self, event_id: int) -> bool:
        """Stops ticking a quiet event, unless somebody was about to join in the last minute."""
        args = {"event_id": event_id, "quiet_ms": span_ms(_QUIET)}
        return bool(await _RETIRE.call(self._redis, keys={"active": _ACTIVE}, args=args))

    async def active_events(self) -> list[int]:
        """Events whose lines are ticked."""
        members: Any = await self._redis.zrange(_ACTIVE, 0, -1)
        return [int(member) for member in members]


def _keys(script: Script, event_id: int) -> Keys:
    return {name: line_key(event_id, name) for name in script.header.keys}


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch, as scripts take them."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def span_ms(span: timedelta) -> int:
    """A duration in milliseconds, as scripts take it."""
    return span // timedelta(milliseconds=1)


def _policy_fields(policy: Policy) -> dict[bytes, bytes]:
    values = (
        policy.mode,
        policy.rate_per_second,
        policy.inside_cap,
        span_ms(policy.claim_window),
        span_ms(policy.admission),
    )
    return {field: str(value).encode() for field, value in zip(_POLICY_ATTRIBUTES, values, strict=True)}


def _policy(fields: Mapping[bytes, bytes]) -> Policy:
    return Policy(
        mode=Mode(fields[b"mode"].decode()),
        rate_per_second=float(fields[b"rate"]),
        inside_cap=int(fields[b"cap"]),
        claim_window=timedelta(milliseconds=int(fields[b"claim_ms"])),
        admission=timedelta(milliseconds=int(fields[b"admission_ms"])),
    )


def _finish_args(purchase: Purchase) -> Args:
    return {
        "user_id": purchase.user_id,
        "confirmed_ms": to_ms(purchase.time),
        "tolerance_ms": span_ms(_CLOCK_TOLERANCE),
    }


def _progress_args(report: Progress) -> Args:
    return {
        "counted_ms": to_ms(report.time),
        "seats_total": report.seats_total,
        "seats_left": report.seats_left,
        "seats_sold": report.seats_sold,
    }
