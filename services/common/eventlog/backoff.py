"""Growing pauses with jitter, so that those who wait for the same outage do not come back together."""

import asyncio
import random
from datetime import timedelta


class Backoff:
    """Doubles from `first` to `longest`; the actual pause is a random half to whole of that."""

    def __init__(
        self, first: timedelta = timedelta(milliseconds=100), longest: timedelta = timedelta(seconds=10)
    ) -> None:
        self._first = first.total_seconds()
        self._longest = longest.total_seconds()
        self._failures = 0

    def reset(self) -> None:
        """After a success: the next pause is short again."""
        self._failures = 0

    async def pause(self) -> None:
        """Waits, each time longer."""
        ceiling = min(self._longest, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        await asyncio.sleep(ceiling * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
