"""Writes a line back into Redis: while a line is not built, the scripts of the line refuse to serve it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.common.cancellation import cancel
from services.common.lua import Args, Script
from services.queue.line.keys import line_key, line_keys
from services.queue.line.times import span_ms
from services.queue.restore.history import History, SpentPlace

_LUA: Final = Path(__file__).with_name("lua")
_BEGIN: Final = Script.load(_LUA / "begin_rebuild.lua")
_PLACES: Final = Script.load(_LUA / "restore_places.lua")
_OPEN: Final = Script.load(_LUA / "open_line.lua")
_KEEP_LOCK: Final = Script.load(_LUA / "keep_lock.lua")

# Places written in one run: a few milliseconds of Redis.
_CHUNK: Final = 500
# Who dies at it is followed after this time; who lives renews the lock three times as often.
_LOCK: Final = timedelta(seconds=10)
_RENEWALS: Final = 3
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a line begins a life."""

    # It lived before: places come back, and nobody is called meanwhile.
    restoring: bool
    # Nobody is called for so long after a place came back, and no longer than `limit` in all.
    grace: timedelta
    limit: timedelta


class RestoreStore:
    """The writing part of a rebuild. Every method raises redis.exceptions.RedisError when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def is_built(self, event_id: int) -> bool:
        """Whether the line is there."""
        return bool(await self._redis.hexists(line_key(event_id, "line"), "built"))

    @asynccontextmanager
    async def lock(self, event_id: int) -> AsyncGenerator[str | None, None]:
        """Asks to be the one who rebuilds: the name of this attempt, or None when another has the lock.

        The lock is kept for as long as the context lasts and this process lives, and given up at its end.
        """
        attempt = secrets.token_hex(8)
        if not await self._redis.set(line_key(event_id, "rebuild"), attempt, nx=True, px=span_ms(_LOCK)):
            yield None
            return
        keeping = asyncio.get_running_loop().create_task(self._keep(event_id, attempt))
        try:
            yield attempt
        finally:
            await cancel([keeping])
            with suppress(RedisError):  # then it ends by itself
                await self._hold(event_id, attempt, timedelta())

    async def _keep(self, event_id: int, attempt: str) -> None:
        held = True
        while held:
            await asyncio.sleep(_LOCK.total_seconds() / _RENEWALS)
            with suppress(RedisError):  # the next renewal may still be in time
                held = await self._hold(event_id, attempt, _LOCK)

    async def _hold(self, event_id: int, attempt: str, span: timedelta) -> bool:
        args: Args = {"attempt": attempt, "ttl_ms": span_ms(span)}
        return bool(await _KEEP_LOCK.call(self._redis, keys=line_keys(_KEEP_LOCK, event_id), args=args))

    async def now(self) -> datetime:
        """The time on Redis' clock."""
        seconds, micros = await self._redis.time()
        return _EPOCH + timedelta(seconds=seconds, microseconds=micros)

    async def begin(self, event_id: int, attempt: str) -> bool:
        """Clears what may be left of the line; false when it is built, or another attempt has the lock. Atomic."""
        return bool(await _BEGIN.call(self._redis, keys=line_keys(_BEGIN, event_id), args={"attempt": attempt}))

    async def write(self, event_id: int, attempt: str, places: Iterable[SpentPlace]) -> bool:
        """Puts back those who left the line; false when another attempt has begun or ended."""
        for chunk in _chunks(places):
            entries = [value for place in chunk for value in place]
            args: Args = {"attempt": attempt, "entries": entries}
            if not await _PLACES.call(self._redis, keys=line_keys(_PLACES, event_id), args=args):
                return False
        return True

    async def open(
        self, event_id: int, attempt: str, opening: Opening, history: History, rules: Mapping[bytes, bytes]
    ) -> bool:
        """Opens the line, whole; false when another attempt has begun or ended. Atomic."""
        args: Args = {
            "attempt": attempt,
            "restoring": int(opening.restoring),
            "grace_ms": span_ms(opening.grace),
            "limit_ms": span_ms(opening.limit),
            "last_score": history.last_score,
            "last_fact": "{}-{}".format(*history.last),
            "called": len(history.called),
            **{f"mark_{lane}": score for lane, score in enumerate(history.watermarks)},
            "rules": [part for rule in rules.items() for part in rule],
        }
        return bool(await _OPEN.call(self._redis, keys=line_keys(_OPEN, event_id), args=args))


def _chunks(places: Iterable[SpentPlace]) -> Iterator[list[SpentPlace]]:
    rest = iter(places)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
