"""Values that may be a moment old: read once for everyone who asks meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Generic, TypeVar

from cachetools import LRUCache

from services.common.errors import describe

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A source that is well answers within milliseconds; who waits for one that is not has a deadline of seconds.
_BRIDGE_AFTER: Final = 0.25
_OUTAGES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known(Generic[V]):
    value: V
    # When the source answered it.
    read_at: float
    # When it was last asked for: the same, unless it was away then.
    asked_at: float


@dataclass(frozen=True, slots=True)
class _Load(Generic[V]):
    task: "asyncio.Task[V]"
    began_at: float


class Fresh(Generic[K, V]):
    """Keeps what `load` answers for `max_age`. Callers who come while it loads share that load, and its failure.

    Args:
        load: reads a value.
        max_age: how old a value may be.
        bridge: how old it may be while the source is away (it says UNAVAILABLE, or nothing). Other failures are told,
            and none is kept.
        most: values that are kept.
    """

    def __init__(
        self,
        load: Callable[[K], Awaitable[V]],
        max_age: timedelta,
        *,
        bridge: timedelta = timedelta(),
        most: int = 4096,
    ) -> None:
        self._load = load
        self._max_age = max_age.total_seconds()
        self._bridge = bridge.total_seconds()
        self._values: LRUCache[K, _Known[V]] = LRUCache(most)
        self._loading: dict[K, _Load[V]] = {}

    async def get(self, key: K, *, max_age: timedelta | None = None) -> V:
        """The value, not older than `max_age` where that is given."""
        found = self._values.get(key)
        limit = self._max_age if max_age is None else max_age.total_seconds()
        now = _now()
        if found is not None and now - found.asked_at <= limit:
            return found.value
        load = self._loading.get(key) or self._begin(key, now)
        if found is not None and now - found.read_at <= self._bridge:
            await asyncio.wait({load.task}, timeout=max(0.0, load.began_at + _BRIDGE_AFTER - now))
            if not load.task.done():
                return found.value
        # A caller that gives up must not take the value from the others.
        return await asyncio.shield(load.task)

    def _begin(self, key: K, now: float) -> _Load[V]:
        task = asyncio.create_task(self._read(key, now))
        task.add_done_callback(lambda done: self._loaded(key, done))
        load = self._loading[key] = _Load(task, now)
        return load

    async def _read(self, key: K, now: float) -> V:
        try:
            value = await self._load(key)
        except Exception as error:  # noqa: BLE001 - it is raised again, unless it is an outage that can be bridged
            return self._last_known(key, error)
        self._values[key] = _Known(value, read_at=now, asked_at=now)
        return value

    def _last_known(self, key: K, error: Exception) -> V:
        """What bridges an outage, not asked for again before `max_age`; raises the error where there is nothing."""
        known, now = self._values.get(key), _now()
        if known is None or now - known.read_at > self._bridge or describe(error).reason not in _OUTAGES:
            raise error
        _log.warning("answered from memory", extra={"fields": {"key": str(key), "error": type(error).__name__}})
        self._values[key] = replace(known, asked_at=now)
        return known.value

    def _loaded(self, key: K, task: "asyncio.Task[V]") -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            # Looked at here, since every caller may have given up.
            task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()
