"""Which lines are ticked, and how long the others are kept."""

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cachetools import TTLCache
from redis.asyncio import Redis

from services.common.lua import Script
from services.queue.line.keys import ACTIVE, line_keys
from services.queue.line.times import span_ms, to_ms

_LUA: Final = Path(__file__).with_name("lua")
_ACTIVATE: Final = Script.load(_LUA / "activate.lua")
_RETIRE: Final = Script.load(_LUA / "retire.lua")
_CONCLUDE: Final = Script.load(_LUA / "conclude.lua")
_PERSIST: Final = Script.load(_LUA / "persist.lua")

# How long people can read what became of their places after a sale.
KEEP: Final = timedelta(days=7)
# A join arrives at its line well within this time after it was announced.
_QUIET: Final = timedelta(minutes=1)
# How long an announcement is not repeated: well below the quiet time.
_ANNOUNCE_SECONDS: Final = 5.0


class Upkeep:
    """The lines of all events. A line is ticked and kept, or stands still and is forgotten some day."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._announced: TTLCache[int, bool] = TTLCache(10_000, _ANNOUNCE_SECONDS, time.monotonic)

    async def announce(self, event_id: int) -> None:
        """As `activate`, unless this process did so in the last seconds."""
        if event_id not in self._announced:
            await self.activate(event_id)
            self._announced[event_id] = True

    async def activate(self, event_id: int) -> None:
        """Has the line ticked and kept from now on. Comes before a join: a crash between them costs some idle ticks."""
        await _ACTIVATE.call(self._redis, keys={"active": ACTIVE}, args={"event_id": event_id})
        await self._persist(event_id)

    async def retire(self, event_id: int, close_time: datetime | None) -> bool:
        """Stops ticking a quiet event, unless somebody was about to join in the last minute.

        The line is forgotten a week after the close of the sale, or after now where that is None: the sale is over. If
        it goes on after all, it is kept.
        """
        args = {"event_id": event_id, "quiet_ms": span_ms(_QUIET)}
        retired = bool(await _RETIRE.call(self._redis, keys={"active": ACTIVE}, args=args))
        if retired:
            await self._conclude(event_id, close_time)
            # The set may live on another node than the line, so that no script sees both: who has activated the line
            # meanwhile has perhaps kept it before it was to be forgotten.
            if await self._is_active(event_id):
                await self._persist(event_id)
        return retired

    async def active_events(self) -> list[int]:
        """Events whose lines are ticked."""
        members: Any = await self._redis.zrange(ACTIVE, 0, -1)
        return [int(member) for member in members]

    async def _is_active(self, event_id: int) -> bool:
        return await self._redis.zscore(ACTIVE, str(event_id)) is not None

    async def _conclude(self, event_id: int, close_time: datetime | None) -> None:
        args = {"close_ms": to_ms(close_time) if close_time else 0, "keep_ms": span_ms(KEEP)}
        await _CONCLUDE.call(self._redis, keys=line_keys(_CONCLUDE, event_id), args=args)

    async def _persist(self, event_id: int) -> None:
        await _PERSIST.call(self._redis, keys=line_keys(_PERSIST, event_id), args={})
