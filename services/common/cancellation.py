"""Ending tasks for certain."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

# A task that has not ended this long after it was cancelled is cancelled again.
CANCEL_AGAIN: Final = 1.0


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks until they have ended; what they raise is theirs.

    Once is not enough: `asyncio.wait_for` can swallow a cancellation before Python 3.12 (CPython issue 86296), and a
    loop whose cancellation was swallowed would run for ever. redis.py keeps redis-py from it; other libraries below us
    may use it all the same.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
