"""What is known about draws: told to anyone, and given back to a line that was lost."""

import asyncio
import time
from typing import Final

from cachetools import LRUCache, TTLCache

from services.common import draw
from services.queue.draw.entrants import PART, Entrants
from services.queue.draw.log import DrawLog
from services.queue.draw.outcome import DrawNotHeld, DrawView, LineLost, Outcome
from services.queue.draw.promises import Promises
from services.queue.draw.store import DrawStore

# A thousand draws take a few hundred kB.
_OUTCOMES: Final = 1_000
# Anyone may ask how far a draw is; Redis is asked once a second for each event.
_FRESH_SECONDS: Final = 1.0
# Whole lists in memory, of nine bytes per person: those that Redis had lost when somebody wanted to read them.
_LISTS: Final = 4


class DrawBook:
    """The draws of all events. Methods raise RedisError or EventLogUnavailable when what they need is away."""

    def __init__(self, store: DrawStore, log: DrawLog, promises: Promises) -> None:
        self._store = store
        self._log = log
        self._promises = promises
        self._held: LRUCache[int, DrawView] = LRUCache(_OUTCOMES)
        self._fresh: TTLCache[int, DrawView] = TTLCache(_OUTCOMES, _FRESH_SECONDS, time.monotonic)
        self._lists: LRUCache[bytes, Entrants] = LRUCache(_LISTS)
        self._loading = asyncio.Lock()

    async def commitment(self, event_id: int) -> bytes:
        """SHA-256 of the event's seed, as it was promised: the same for ever, whatever came of the draw."""
        outcome = await self.outcome(event_id)
        if outcome is None:
            return await self._promises.commitment(event_id)
        # A draw that is older than its promise must not be given one of today's secret.
        return await self._promises.find(event_id) or draw.commitment(outcome.seed)

    async def view(self, event_id: int) -> DrawView:
        """How far the draw is, at most a second old; all of it from the moment it is held."""
        return self._fresh.get(event_id) or await self._look(event_id)

    async def _look(self, event_id: int) -> DrawView:
        """As Redis tells it, unless the line is lost: then what was known of the draw before, until it is rebuilt."""
        view, is_built = await self._store.look(event_id)
        if not is_built:
            view = self._held.get(event_id, view)
        if view.outcome is None:
            self._held.pop(event_id, None)
        else:
            self._held[event_id] = view
        self._fresh[event_id] = view
        return view

    async def outcome(self, event_id: int) -> Outcome | None:
        """What the draw came to; None until it is held."""
        known = self._fresh.get(event_id)
        if known is None or known.outcome is None:
            known = await self._look(event_id)
        return known.outcome

    async def key(self, event_id: int) -> bytes | None:
        """What gives everyone of the draw a score; None until it is held."""
        outcome = await self.outcome(event_id)
        return outcome.key if outcome else None

    async def restore(self, event_id: int, attempt: str) -> bool:
        """Gives the outcome back to a line that was lost, from the event log; false when there is none yet.

        The draw then counts as held, with the list that it was held with: people come back to their places one by one.
        For the `attempt` that rebuilds the line, before that is declared whole. Safe to repeat. Raises LineLost:
        another attempt has begun or ended.
        """
        found = await self._log.find(event_id, await self._promises.earliest(event_id))
        if found is None:
            return False
        outcome, entrants = found
        await self._store.take_over(event_id, entrants, outcome, attempt=attempt)
        await self._store.save_list(event_id, entrants)
        await self._store.decide(event_id, outcome, attempt=attempt)
        self._lists[outcome.list_digest] = entrants
        return True

    async def entrants(self, event_id: int, start: int, size: int) -> tuple[list[int], list[int]]:
        """`size` people of the list from place `start` on: accounts, ascending, and their lanes. Raises DrawNotHeld."""
        outcome = await self.outcome(event_id)
        if outcome is None:
            raise DrawNotHeld
        stop = min(start + size, outcome.entrant_count)
        if start >= stop:
            return [], []
        first = start // PART
        saved = await self._store.saved(event_id, first, (stop - 1) // PART)
        if saved is not None:
            return saved.slice(start - first * PART, stop - first * PART)
        return (await self._load(event_id, outcome)).slice(start, stop)

    async def _load(self, event_id: int, outcome: Outcome) -> Entrants:
        """The list from the event log, and back into Redis; once for all who want to read it."""
        async with self._loading:
            if outcome.list_digest not in self._lists:
                since = await self._promises.earliest(event_id)
                decided, entrants = await self._log.decided(event_id, since)
                await self._store.save_list(event_id, entrants)
                self._lists[decided.list_digest] = entrants
                if decided.list_digest != outcome.list_digest:
                    raise LineLost("the event log has another draw than the line")
            return self._lists[outcome.list_digest]
