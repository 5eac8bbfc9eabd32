"""What the line keeps in Redis, and the callers of its scripts.

Every method raises redis.exceptions.RedisError when Redis does not answer, and, where it says so, NotBuilt: the line is
not there, and has to be built first.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common.coalesce import Coalescer
from services.common.lua import Args, Script
from services.queue.line import replies
from services.queue.line.domain import Line, Policy, Sale, Standing
from services.queue.line.joining import Joining
from services.queue.line.keys import line_key, line_keys
from services.queue.line.replies import Reading
from services.queue.line.rules import POLICY_ATTRIBUTES, policy_fields, policy_of_fields
from services.queue.line.ticking import Ticking
from services.queue.line.times import from_ms, span_ms, to_ms
from services.queue.line.transitions import (
    Admission,
    Fact,
    JoinCommand,
    Joined,
    PolicyChange,
    Progress,
    Purchase,
    Tick,
)
from services.queue.line.upkeep import KEEP, Upkeep

__all__ = ["LineStore", "line_key", "policy_fields", "span_ms", "to_ms"]

_LUA: Final = Path(__file__).with_name("lua")
_CLAIM: Final = Script.load(_LUA / "claim.lua")
_LEAVE: Final = Script.load(_LUA / "leave.lua")
_FINISH: Final = Script.load(_LUA / "finish.lua")
_READ: Final = Script.load(_LUA / "read.lua")
_BUILD: Final = Script.load(_LUA / "build.lua")
_SET_POLICY: Final = Script.load(_LUA / "set_policy.lua")
_SET_PROGRESS: Final = Script.load(_LUA / "set_progress.lua")

# Places read in one run.
_READ_CHUNK: Final = 500
# Batches of joins that travel together: enough for thousands of joins in one round trip.
_JOIN_BATCHES: Final = 16
# Clocks of our machines are kept closer together than this; nobody joins, claims and buys again in less.
_CLOCK_TOLERANCE: Final = timedelta(seconds=5)
# What set_progress answers when a sale is no longer sold out.
_SEATS_AGAIN: Final = 2
_RESTORE_GRACE: Final = timedelta(seconds=10)
_RESTORE_LIMIT: Final = timedelta(minutes=5)
# A fact is told by the next tick. Who claims is told that the log is away before these are over.
_LOG_PATIENCE: Final = timedelta(seconds=5)


class LineStore:
    """The lines of all events. `defaults` rule a line until an operator changes its policy."""

    def __init__(
        self,
        redis: Redis,
        defaults: Policy,
        *,
        restore_grace: timedelta = _RESTORE_GRACE,
        restore_limit: timedelta = _RESTORE_LIMIT,
        log_patience: timedelta = _LOG_PATIENCE,
    ) -> None:
        """After a loss nobody is called for `restore_grace` after the last place came back, `restore_limit` in all.

        Nor is anybody while the event log does not take facts for longer than `log_patience`.
        """
        self._redis = redis
        self._defaults = defaults
        self._restore_grace = restore_grace
        self._restore_limit = restore_limit
        self.upkeep = Upkeep(redis)
        self._joining = Joining(redis, defaults, restore_grace, self._read_line)
        self._ticking = Ticking(redis, defaults, log_patience)
        # One round at a time: two on two connections would race, and places are given in order of arrival.
        self._joins: Coalescer[Sequence[JoinCommand], list[Joined | Exception]] = Coalescer(
            self._join_batches, _JOIN_BATCHES, max_in_flight=1, name="queue-join"
        )
        self._reads: Coalescer[tuple[int, int], tuple[Line, Standing | None]] = Coalescer(
            self._read_pairs, name="queue-read"
        )

    async def join(self, command: JoinCommand) -> Joined:
        """As `join_many`, of one; raises what went wrong."""
        (joined,) = await self.join_many([command])
        if isinstance(joined, Exception):
            raise joined
        return joined

    async def join_many(self, commands: Sequence[JoinCommand]) -> list[Joined | Exception]:
        """Takes, finds or restores places, each with its own outcome, and has their lines ticked. Each is atomic.

        Carried out in order, also of concurrent calls; those travel together. Outcomes that are errors: SaleClosed,
        SoldOut, LanePassInvalid, Drawing, NotBuilt (nothing was done), Unavailable (the line was lost meanwhile).
        """
        return await self._joins.submit(commands)

    async def _join_batches(self, batches: Sequence[Sequence[JoinCommand]]) -> list[list[Joined | Exception]]:
        by_event: dict[int, list[JoinCommand]] = {}
        for command in (each for batch in batches for each in batch):
            by_event.setdefault(command.event_id, []).append(command)
        await asyncio.gather(*map(self.upkeep.announce, by_event))
        joined = await asyncio.gather(
            *(self._joining.join_many(event_id, commands) for event_id, commands in by_event.items())
        )
        outcomes = {event_id: iter(each) for event_id, each in zip(by_event, joined, strict=True)}
        return [[next(outcomes[command.event_id]) for command in batch] for batch in batches]

    async def _read_line(self, event_id: int, users: Sequence[int]) -> Reading | Exception:
        return (await self.read_many({event_id: users}))[event_id]

    async def read(self, event_id: int, user_id: int) -> tuple[Line, Standing | None]:
        """The line and one person's place in it, of the same instant; concurrent calls travel together.

        Raises NotBuilt.
        """
        return await self._reads.submit((event_id, user_id))

    async def _read_pairs(self, pairs: list[tuple[int, int]]) -> list[tuple[Line, Standing | None] | Exception]:
        wanted: dict[int, list[int]] = {}
        for event_id, user_id in pairs:
            wanted.setdefault(event_id, []).append(user_id)
        readings = await self.read_many(wanted)
        return [replies.one_of(readings[event_id], user_id) for event_id, user_id in pairs]

    async def read_many(self, wanted: Mapping[int, Sequence[int]]) -> dict[int, Reading | Exception]:
        """Lines by event, and places by user, in one pipeline however many are wanted.

        What failed fails alone: NotBuilt where the line is not there.
        """
        chunks = [
            (event_id, users[start : start + _READ_CHUNK])
            for event_id, users in wanted.items()
            for start in range(0, max(len(users), 1), _READ_CHUNK)
        ]
        rules: Args = {"default_mode": self._defaults.mode, "default_rate": self._defaults.rate_per_second}
        calls = [(line_keys(_READ, event_id), {**rules, "user_ids": users}) for event_id, users in chunks]
        readings: dict[int, Reading | Exception] = {}
        for (event_id, users), answer in zip(chunks, await _READ.call_many(self._redis, calls), strict=True):
            part = replies.settled(answer, partial(replies.reading, users=users))
            readings[event_id] = replies.together(readings[event_id], part) if event_id in readings else part
        return readings

    async def claim(self, event_id: int, user_id: int) -> Admission:
        """READY → ADMITTED, or the standing admission. Raises PlaceNotFound, PlaceNotReady, NotBuilt. Atomic."""
        args = {"user_id": user_id, "default_admission_ms": span_ms(self._defaults.admission)}
        answer = replies.accepted(await _CLAIM.call(self._redis, keys=line_keys(_CLAIM, event_id), args=args))
        until_ms, since_ms, score, lane, entry_id, built = answer
        told = replies.fact_id(event_id, entry_id.decode()) if entry_id else ""
        return Admission(from_ms(until_ms), from_ms(since_ms), int(score), lane, told, int(built))

    async def leave(self, event_id: int, user_id: int) -> bool:
        """Ends a live place as LEFT; false when there was none. Raises NotBuilt. Atomic."""
        keys = line_keys(_LEAVE, event_id)
        (left,) = replies.accepted(await _LEAVE.call(self._redis, keys=keys, args={"user_id": user_id}))
        if left:  # the fact of it is to be told, also of a line that stands still
            await self.upkeep.announce(event_id)
        return bool(left)

    async def finish_many(self, purchases: Sequence[Purchase]) -> dict[int, int | Exception]:
        """Ends the places of who has bought as DONE; answers, by event, how many were. Safe to repeat.

        What failed fails alone: NotBuilt where the line is not there.
        """
        calls = [(line_keys(_FINISH, each.event_id), _finish_args(each)) for each in purchases]
        done: dict[int, int | Exception] = {}
        for purchase, answer in zip(purchases, await _FINISH.call_many(self._redis, calls), strict=True):
            now = replies.settled(answer, replies.flag)
            done[purchase.event_id] = replies.added(done.get(purchase.event_id, 0), now)
        told = [event_id for event_id, count in done.items() if isinstance(count, int) and count]
        await asyncio.gather(*map(self.upkeep.announce, told))
        return done

    async def set_progress_many(self, reports: Sequence[Progress]) -> dict[int, Exception]:
        """Keeps the newest count of seats of each event, and has a line ticked when seats are there again.

        Safe to repeat, in any order. Answers what failed, by event; the others are done.
        """
        calls = [(line_keys(_SET_PROGRESS, each.event_id), _progress_args(each)) for each in reports]
        failed: dict[int, Exception] = {}
        for report, answer in zip(reports, await _SET_PROGRESS.call_many(self._redis, calls), strict=True):
            if isinstance(answer, Exception):
                failed[report.event_id] = answer
            elif answer == _SEATS_AGAIN:
                await self.upkeep.activate(report.event_id)
        return failed

    async def admit_many(
        self,
        sales: Mapping[int, Sale],
        *,
        fences: Mapping[int, int] | None = None,
        paces: Mapping[int, float] | None = None,
    ) -> dict[int, Tick | Exception]:
        """One tick of admission for each event, in few pipelines. Each step is atomic, and safe beside other loops.

        `fences` are the fencing numbers of a loop that has a lease, `paces` the shares of the rate that may be used. An
        event that fails has its error, the others go on: NotBuilt, Fenced, or that of a script (an operator may have
        written into Redis by hand).
        """
        return await self._ticking.admit_many(sales, fences or {}, paces or {})

    async def unpublished(self, event_id: int, limit: int) -> list[Fact]:
        """The oldest facts that were not forgotten yet, in order."""
        entries: Any = await self._redis.xrange(line_key(event_id, "outbox"), count=limit)
        return [replies.fact(event_id, entry_id.decode(), fields) for entry_id, fields in entries]

    async def forget(self, event_id: int, facts: Sequence[Fact]) -> None:
        """Drops facts that are published. Safe beside another loop that publishes the same ones."""
        entries = [each.fact_id.partition("-")[2] for each in facts]
        await self._redis.xdel(line_key(event_id, "outbox"), *entries)

    async def build(self, event_id: int, *, restoring: bool) -> bool:
        """Has the line be there, and ticked, from now on; false when it was there already. Atomic.

        `restoring`: there was a line before, which was lost, so that people come back and nobody is called meanwhile.
        """
        args: Args = {
            "is_restoring": int(restoring),
            "quiet_ms": span_ms(self._restore_grace),
            "limit_ms": span_ms(self._restore_limit),
        }
        _, fresh = await _BUILD.call(self._redis, keys=line_keys(_BUILD, event_id), args=args)
        await self.upkeep.activate(event_id)
        return bool(fresh)

    async def policy(self, event_id: int) -> Policy:
        """How the line is run now."""
        changed: Any = await self._redis.hgetall(line_key(event_id, "policy"))
        return policy_of_fields({**policy_fields(self._defaults), **changed})

    async def set_policy(self, event_id: int, wanted: Policy, changed: Collection[str]) -> PolicyChange:
        """Sets the attributes `changed` to those of `wanted`; answers the policy before and after. Atomic.

        Raises LanesInvalid: a lane that would go still has people.
        """
        fields = policy_fields(wanted)
        changes = {field: value for field, value in fields.items() if POLICY_ATTRIBUTES[field] in changed}
        args: Args = {
            "kept": "".join(str(lane.number) for lane in wanted.lanes) if "lanes" in changed else "",
            "changes": [part for change in changes.items() for part in change],
        }
        keys = line_keys(_SET_POLICY, event_id)
        version, *told = replies.accepted(await _SET_POLICY.call(self._redis, keys=keys, args=args))
        before = {**policy_fields(self._defaults), **dict(zip(told[::2], told[1::2], strict=True))}
        return PolicyChange(policy_of_fields(before), policy_of_fields({**before, **changes}), version)


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
        "keep_ms": span_ms(KEEP),
    }
