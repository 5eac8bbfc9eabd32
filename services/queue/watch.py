"""Following places: whoever watches in this process is served by one reader, in one pipeline a second."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from services.common.place_in_digest import Expected, is_news
from services.queue.line.domain import Place, PlaceNotFound

# As fresh as the contract promises, and as rare.
INTERVAL: Final = timedelta(seconds=1)
# A round may come a little early after a late one; that must not cost a watcher the next round, too.
_EARLY: Final = 0.9

Reader = Callable[[Mapping[int, Sequence[int]]], Awaitable[Mapping[int, Mapping[int, Place | None]]]]


class _Watcher:
    """One open stream: what was told last, and whether there is news. Unread news is replaced by newer news."""

    __slots__ = ("changed", "is_open", "place", "told_at", "user_id")

    def __init__(self, user_id: int, first: Place, now: float) -> None:
        self.user_id = user_id
        self.place: Place | None = first
        self.told_at = now
        self.is_open = True
        self.changed = asyncio.Event()

    def offer(self, place: Place | None, now: float) -> None:
        early = now < self.told_at + INTERVAL.total_seconds() * _EARLY
        if early or not self._is_news(place, now):
            return
        self.place, self.told_at = place, now
        self.changed.set()

    def _is_news(self, place: Place | None, now: float) -> bool:
        told = self.place
        if place is None or told is None:
            return place is not told
        return place.news != told.news or is_news(_expected(told, self.told_at), _expected(place, now), now)

    def close(self) -> None:
        self.is_open = False
        self.changed.set()


class PlaceWatch:
    """All watchers of one process. `step` is to be called every second, and `close` when the process drains."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._watchers: dict[int, set[_Watcher]] = {}
        self._is_open = True

    async def follow(self, event_id: int, user_id: int, first: Place) -> AsyncGenerator[Place, None]:
        """What is new since `first`, at most once a second, to the last word. Raises PlaceNotFound when it is lost."""
        place: Place | None = first
        watcher = _Watcher(user_id, first, _now())
        self._enter(event_id, watcher)
        try:
            while place is not None and not place.is_last_word:
                await watcher.changed.wait()
                watcher.changed.clear()
                if not watcher.is_open:
                    return
                place = watcher.place
                if place is None:
                    raise PlaceNotFound
                yield place
        finally:
            self._exit(event_id, watcher)

    def _enter(self, event_id: int, watcher: _Watcher) -> None:
        self._watchers.setdefault(event_id, set()).add(watcher)
        if not self._is_open:
            watcher.close()

    def _exit(self, event_id: int, watcher: _Watcher) -> None:
        self._watchers[event_id].discard(watcher)
        if not self._watchers[event_id]:
            del self._watchers[event_id]

    async def step(self) -> None:
        """Reads the places of everyone who watches, in one pipeline, and tells those for whom something is new."""
        watching = {event_id: list(watchers) for event_id, watchers in self._watchers.items()}
        if not watching:
            return
        wanted = {event_id: sorted({each.user_id for each in watchers}) for event_id, watchers in watching.items()}
        places, now = await self._read(wanted), _now()
        for event_id, told in places.items():  # those of an event that could not be read hear no news this time
            for watcher in watching[event_id]:
                watcher.offer(told[watcher.user_id], now)

    def close(self) -> None:
        """Ends every stream, and those that come, so that a drain need not wait for them."""
        self._is_open = False
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()


def _expected(place: Place, now: float) -> Expected:
    outlook = place.outlook
    return Expected(now + outlook.p50, now + outlook.p90, outlook.odds)


def _now() -> float:
    return asyncio.get_running_loop().time()
