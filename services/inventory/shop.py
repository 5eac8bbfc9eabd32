"""How the shop is doing, for the line in front of it: three figures, collected once a second."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from services.common.eventlog import EventLogUnavailable
from services.common.mysql import DatabaseUnavailable

T = TypeVar("T")

COLLECT_EVERY: Final = timedelta(seconds=1)
# Long enough for a percentile, short enough that a slow second is forgotten before it slows the line twice.
WINDOW: Final = timedelta(seconds=3)
# A payment without an outcome for so long waits for a provider, or for the completer.
BACKLOG_AFTER: Final = timedelta(seconds=5)
# A figure that takes longer would be old, and hold up the others.
_PATIENCE_SECONDS: Final = 2.0
# Batches that are remembered: those of the window at several times the rate of this service's best day.
_BATCHES_MOST: Final = 6_000

_log = logging.getLogger(__name__)


class HoldTimes:
    """How long holding seats took lately. To note a batch costs less than a microsecond, whatever its size."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When a batch ended, how long it took, and for how many requests.
        self._batches: deque[tuple[float, float, int]] = deque(maxlen=_BATCHES_MOST)

    def note(self, seconds: float, requests: int) -> None:
        """Takes in a batch that has just ended: each of its requests has waited for all of it."""
        self._batches.append((self._clock(), seconds, requests))

    def p99(self) -> timedelta | None:
        """What 99 of 100 requests of the last three seconds stayed below or at; None when there were none.

        Below a hundred requests the slowest one does not count: a single pause of a process shall not slow a line.
        """
        oldest = self._clock() - WINDOW.total_seconds()
        while self._batches and self._batches[0][0] < oldest:
            self._batches.popleft()
        slowest_first = sorted(((seconds, requests) for _, seconds, requests in self._batches), reverse=True)
        spared = math.ceil((sum(requests for _, requests in slowest_first) - 1) / 100)
        for seconds, requests in slowest_first:
            spared -= requests
            if spared < 0:
                return timedelta(seconds=seconds)
        return None


@dataclass(frozen=True, slots=True)
class ShopHealth:
    """What the shop can tell of its load; None where it cannot."""

    hold_p99: timedelta | None = None
    event_log_lag: int | None = None
    payment_backlog: int | None = None


class ShopMeter:
    """Keeps the figures fresh.

    Args:
        hold_times: noted by who holds.
        lag: counts the records of booking commands that the workers have not committed.
        backlog: counts the payments without an outcome after `BACKLOG_AFTER`.
    """

    def __init__(
        self, hold_times: HoldTimes, lag: Callable[[], Awaitable[int]], backlog: Callable[[], Awaitable[int]]
    ) -> None:
        self._hold_times = hold_times
        self._lag = lag
        self._backlog = backlog
        self.health = ShopHealth()

    async def run(self) -> None:
        """Collects once a second until cancelled."""
        while True:
            await self.collect()
            await asyncio.sleep(COLLECT_EVERY.total_seconds())

    async def collect(self) -> None:
        """Collects once. A figure that cannot be had is absent, and keeps none of the others back."""
        lag, backlog = await asyncio.gather(_figure(self._lag), _figure(self._backlog))
        self.health = ShopHealth(self._hold_times.p99(), lag, backlog)


async def _figure(ask: Callable[[], Awaitable[int]]) -> int | None:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await ask()
    except (EventLogUnavailable, DatabaseUnavailable, TimeoutError):
        return None  # those who need them to work have said so
    except Exception as error:  # noqa: BLE001 - whatever it is, an old figure would be worse than none
        _log.warning("a figure of the shop cannot be had", exc_info=error)
        return None
