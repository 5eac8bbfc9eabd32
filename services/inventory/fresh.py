"""Values that may be a moment old: read once for everyone who asks meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Fresh(Generic[K, V]):
    """Keeps what `load` answers for `max_age`. Callers who come while it loads share that load, and its failure.

    Failures are not kept.
    """

    def __init__(self, load: Callable[[K], Awaitable[V]], max_age: timedelta, *, most: int = 4096) -> None:
        self._load = load
        self._max_age = max_age.total_seconds()
        self._values: LRUCache[K, tuple[float, V]] = LRUCache(most)
        self._loading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, *, max_age: timedelta | None = None) -> V:
        """The value, not older than `max_age` where that is given."""
        found = self._values.get(key)
        limit = self._max_age if max_age is None else max_age.total_seconds()
        if found is not None and asyncio.get_running_loop().time() - found[0] <= limit:
            return found[1]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._read(key))
            task.add_done_callback(lambda done: self._loaded(key, done))
        # A caller that gives up must not take the value from the others.
        return await asyncio.shield(task)

    async def _read(self, key: K) -> V:
        started = asyncio.get_running_loop().time()
        value = await self._load(key)
        self._values[key] = started, value
        return value

    def _loaded(self, key: K, task: asyncio.Task[V]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            # Looked at here, since every caller may have given up.
            task.exception()
