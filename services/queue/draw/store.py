"""What a draw keeps in Redis, beside the lines whose keys it shares: `draw`, `draw_list`, and a look at `entrants`.

Everything here can be lost: the outcome and the list are in the event log. Every method raises
redis.exceptions.RedisError when Redis does not answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from boxoffice.queue.v1 import queue_events_pb2 as pb
from redis.asyncio import Redis

from services.common.lua import Args, Script
from services.queue.draw.entrants import PART, Entrants, ascending
from services.queue.draw.outcome import Closed, DrawState, DrawView, LineLost, Outcome
from services.queue.line.keys import line_key, line_keys
from services.queue.line.times import from_ms, to_ms

_LUA: Final = Path(__file__).with_name("lua")
_CLOSE: Final = Script.load(_LUA / "close.lua")
_DECIDE: Final = Script.load(_LUA / "decide.lua")
_ENTER: Final = Script.load(_LUA / "enter.lua")
_HOLD: Final = Script.load(_LUA / "hold.lua")
_TAKE_OVER: Final = Script.load(_LUA / "take_over.lua")

# People written in one run: one to two milliseconds of Redis.
_AT_ONCE: Final = 500
# Parts of a list that are read or written at a time.
_PARTS: Final = 10


class DrawStore:
    """The draws of all events, as far as Redis knows."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def close(self, event_id: int, open_time: datetime) -> Closed | None:
        """Closes the list, or finds it closed; None while it must stay open. Atomic."""
        answer = await _CLOSE.call(self._redis, line_keys(_CLOSE, event_id), {"open_ms": to_ms(open_time)})
        if not answer[0]:
            return None
        _, closed_ms, entrant_count, held = answer
        return Closed(from_ms(closed_ms), int(entrant_count), held=bool(held))

    async def entrants(self, event_id: int) -> Entrants:
        """Who takes part, ascending. Of a closed list, which does not change; check with `close` that it was there."""
        lanes = await self._lanes(event_id)
        runs = [sorted(users) async for users in self._by_join_time(event_id)]
        entrants = Entrants()
        for part in ascending(runs):
            entrants.extend(part, [lanes.get(user, 0) for user in part])
            await asyncio.sleep(0)  # the others go on between two parts
        return entrants

    async def _by_join_time(self, event_id: int) -> AsyncIterator[list[int]]:
        start = 0
        while members := await self._zrange(event_id, start):
            yield [int(member) for member in members]
            start += PART

    async def _zrange(self, event_id: int, start: int) -> list[bytes]:
        found: Any = await self._redis.zrange(line_key(event_id, "entrants"), start, start + PART - 1)
        return list(found)

    async def _lanes(self, event_id: int) -> dict[int, int]:
        """Lanes other than the general one."""
        lanes: dict[int, int] = {}
        found: Any
        cursor = 0
        while True:
            cursor, found = await self._redis.hscan(line_key(event_id, "lanes"), cursor, count=PART)
            lanes.update((int(user), int(lane)) for user, lane in found.items())
            if cursor == 0:
                return lanes

    async def decide(self, event_id: int, outcome: Outcome, *, attempt: str = "") -> None:
        """Keeps the outcome. Atomic. Raises LineLost: another stands.

        `attempt` is the one that rebuilds a lost line: nobody else will be given a place, since people come back.
        Raises LineLost as well when another attempt has begun or ended.
        """
        args: Args = {
            "closed_ms": to_ms(outcome.close_time),
            "entrant_count": outcome.entrant_count,
            "list_digest": outcome.list_digest,
            "key": outcome.key,
            "seed": outcome.seed,
            "attempt": attempt,
        }
        if not await _DECIDE.call(self._redis, line_keys(_DECIDE, event_id), args):
            raise LineLost("another outcome stands in Redis")

    async def enter(self, event_id: int, key: bytes, entries: Sequence[int]) -> int:
        """Gives people who take part their places; answers how many of them do. Raises LineLost. Safe to repeat.

        `entries` are account, score and lane, in turn; lane -1: where they are.
        """
        args: Args = {"key": key, "entries": entries}
        done, *rest = await _ENTER.call(self._redis, line_keys(_ENTER, event_id), args)
        if done:
            return int(rest[0])
        if rest[0] == b"HELD":  # by another holder: everyone has a place
            return len(entries) // 3
        raise LineLost("the line was lost while places were given")

    async def strangers(self, event_id: int, entrants: Entrants) -> AsyncIterator[tuple[int, int]]:
        """Those who take part in Redis and are not in `entrants`, with their time of joining in µs."""
        start = 0
        while members := await self._zrange(event_id, start):
            users = [user for user in map(int, members) if user not in entrants]
            if users:
                joined: Any = await self._redis.zmscore(line_key(event_id, "entrants"), [str(user) for user in users])
                for user, joined_us in zip(users, joined, strict=True):
                    yield user, int(joined_us)
            start += PART

    async def take_over(self, event_id: int, entrants: Entrants, outcome: Outcome, *, attempt: str = "") -> None:
        """Makes those of `entrants` take part, in the lanes of the list. Safe to repeat.

        When they had joined is not known here; those who come back with a signed place tell it. Raises LineLost: as
        `decide` does for an `attempt`; without one, the outcome is not the one in Redis, or the draw is held.
        """
        args: Args = {"attempt": attempt, "key": outcome.key, "joined_us": to_ms(outcome.close_time) * 1000}
        for users, lanes in entrants.parts(_AT_ONCE):
            entries = [value for entry in zip(users, lanes, strict=True) for value in entry]
            call: Args = {**args, "entries": entries}
            if not await _TAKE_OVER.call(self._redis, line_keys(_TAKE_OVER, event_id), call):
                raise LineLost("another attempt, or another outcome, stands in Redis")

    async def drop(self, event_id: int, strangers: Sequence[int]) -> None:
        """Takes people out of those who take part. Safe to repeat."""
        if strangers:
            await self._redis.zrem(line_key(event_id, "entrants"), *strangers)

    async def hold(self, event_id: int, key: bytes) -> None:
        """Opens the line: from now on people are called. Raises LineLost. Safe to repeat."""
        if not await _HOLD.call(self._redis, line_keys(_HOLD, event_id), {"key": key}):
            raise LineLost("the line was lost while its draw was held")

    async def look(self, event_id: int) -> tuple[DrawView, bool]:
        """How far the draw is, and whether its line is there. Nothing of the outcome is told before it is held."""
        async with self._redis.pipeline() as pipe:
            pipe.hgetall(line_key(event_id, "draw"))
            pipe.zcard(line_key(event_id, "entrants"))
            pipe.hexists(line_key(event_id, "line"), "built")
            known, entrant_count, built = await pipe.execute()
        close_time = from_ms(known[b"closed_ms"]) if b"closed_ms" in known else None
        if b"held_ms" in known:
            outcome = _outcome(known)
            return DrawView(DrawState.HELD, outcome.entrant_count, close_time, outcome), bool(built)
        state = DrawState.OPEN if close_time is None else DrawState.DRAWING
        return DrawView(state, entrant_count, close_time, None), bool(built)

    async def save_list(self, event_id: int, entrants: Entrants) -> None:
        """Keeps the list for whoever wants to read it. Safe to repeat."""
        key = line_key(event_id, "draw_list")
        waiting: dict[str, bytes] = {}
        for number, (users, lanes) in enumerate(entrants.parts()):
            waiting[str(number)] = pb.DrawEntrants(user_ids=users, lanes=lanes).SerializeToString()
            if len(waiting) == _PARTS:
                await self._set(key, waiting)
                waiting = {}
        if waiting:
            await self._set(key, waiting)

    async def _set(self, key: bytes, parts: dict[str, bytes]) -> None:
        fields: Any = parts
        done: Any = self._redis.hset(key, mapping=fields)
        await done

    async def saved(self, event_id: int, first: int, last: int) -> Entrants | None:
        """The parts of the list from number `first` to `last`; None where one of them is not kept any more."""
        numbers = [str(number) for number in range(first, last + 1)]
        found: Any = self._redis.hmget(line_key(event_id, "draw_list"), numbers)
        entrants = Entrants()
        for value in await found:
            if value is None:
                return None
            part = pb.DrawEntrants.FromString(value)
            entrants.extend(part.user_ids, part.lanes)
        return entrants


def _outcome(known: dict[bytes, bytes]) -> Outcome:
    return Outcome(
        close_time=from_ms(known[b"closed_ms"]),
        entrant_count=int(known[b"entrant_count"]),
        list_digest=known[b"list_digest"],
        seed=known[b"seed"],
        key=known[b"key"],
    )
