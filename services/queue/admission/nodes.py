"""A Redis node that votes on leases: asked briefly, and never twice at a time, however slow it is."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.common.cancellation import cancel
from services.common.lua import Args, Keys, Script

# A node answers within a millisecond. One that takes this long must not hold up the tick of everyone's line.
PATIENCE: Final = timedelta(milliseconds=50)
# A connection that is still being made after this is given up, so that the next one has its chance.
_GIVE_UP_SECONDS: Final = 1.0


class Node:
    """One node. It has no say while it does not answer, or answers a question of before."""

    def __init__(self, redis: Redis, patience: timedelta = PATIENCE) -> None:
        self._redis = redis
        self._patience = patience.total_seconds()
        self._asking: asyncio.Task[list[Any] | None] | None = None

    async def ask(self, script: Script, calls: Sequence[tuple[Keys, Args]]) -> list[Any] | None:
        """What the script answers to each of the calls, in one pipeline; None when the node does not answer in time.

        What was asked may still be carried out later. It is not cancelled, since that would cost the connection: a node
        to which connecting takes longer than our patience would never have a say.
        """
        if self._asking is not None and not self._asking.done():
            return None
        self._asking = asyncio.create_task(self._ask(script, calls))
        done, _ = await asyncio.wait({self._asking}, timeout=self._patience)
        return self._asking.result() if done else None

    async def _ask(self, script: Script, calls: Sequence[tuple[Keys, Args]]) -> list[Any] | None:
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                return await script.call_many(self._redis, calls)
        except (RedisError, OSError):  # TimeoutError is one too
            return None

    async def aclose(self) -> None:
        """Waits for nothing any more."""
        if self._asking is not None:
            await cancel([self._asking])
