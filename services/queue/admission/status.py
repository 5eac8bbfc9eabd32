"""How a line goes, for its operator: who is where, how fast it may go and why not faster, and who ticks it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from services.queue.admission.lease import TTL
from services.queue.admission.pace import Pace, Reason
from services.queue.line.domain import Mode, Policy
from services.queue.line.store import line_key

_LANES: Final = ("users", "users:1", "users:2", "users:3")
_TICKED: Final = ("fence", "ticked_us", "observed_rate")


@dataclass(frozen=True, slots=True)
class Status:
    """A line at one instant."""

    waiting: tuple[int, ...]
    ready: int
    admitted: int
    entrants: int
    allowed_rate: float
    slowed_by: tuple[Reason, ...]
    observed_rate: float
    # 0 while nobody holds the lease.
    fence: int


class StatusReader:
    """Reads it from Redis, as one transaction.

    The pace is this process' own, whichever process ticks the line: all of them ask the same shop once a second.
    """

    def __init__(self, redis: Redis, pace: Pace, is_unfenced: Callable[[int], bool]) -> None:
        self._redis = redis
        self._pace = pace
        self._is_unfenced = is_unfenced

    async def read(self, event_id: int, policy: Policy) -> Status:
        """The line of an event now. Raises redis.exceptions.RedisError."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hmget(line_key(event_id, "line"), list(_TICKED))
            for name in (*_LANES, "ready", "admitted", "entrants"):
                pipe.zcard(line_key(event_id, name))
            (seconds, micros), (fence, ticked_us, observed), *counts = await pipe.execute()
        *waiting, ready, admitted, entrants = counts
        is_ticked = seconds + micros / 1e6 - int(ticked_us or 0) / 1e6 < TTL.total_seconds()
        return Status(
            waiting=tuple(waiting),
            ready=ready,
            admitted=admitted,
            entrants=entrants,
            allowed_rate=0.0 if policy.mode is Mode.HOLD else policy.rate_per_second * self._pace.factor,
            slowed_by=self._pace.slowed_by,
            observed_rate=float(observed or 0),
            fence=int(fence or 0) if is_ticked and not self._is_unfenced(event_id) else 0,
        )
