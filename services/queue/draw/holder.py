"""Holding a draw: from the closed list to a place for everyone.

Any number of processes may hold the draw of an event at once, and each may die at any step; the next one begins again
and comes to the same places. What makes it so:

* the list is closed by one script, and does not change after that;
* the seed is the one that was promised, or there is no draw;
* the outcome is the first complete attempt in the event log. Whoever writes one reads back which one was first, even
  after writing its own, and goes on with that;
* places are given by a script that passes over who has one, or has left;
* nobody is called before the last step.
"""

import asyncio
import logging
import uuid
from array import array
from collections.abc import Sequence
from typing import Final

from redis.exceptions import RedisError

from services.common import draw, metrics
from services.common.cancellation import cancel
from services.common.eventlog.port import EventLogUnavailable
from services.queue.draw.entrants import Entrants
from services.queue.draw.log import DrawLog
from services.queue.draw.outcome import Closed, LineLost, Outcome, PromiseBroken
from services.queue.draw.promises import Promises
from services.queue.draw.store import DrawStore
from services.queue.line.domain import Sale

# People who get their places in one run, about: some milliseconds of Redis.
_AT_ONCE: Final = 500
# A draw that failed is held again after this time: what was away is not asked five times a second.
RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class DrawHolder:
    """Holds draws in the background, one task for each event."""

    def __init__(self, store: DrawStore, log: DrawLog, promises: Promises) -> None:
        self._store = store
        self._log = log
        self._promises = promises
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def hold(self, event_id: int, sale: Sale) -> None:
        """Has the draw held, unless that is under way in this process. To be called at every tick that needs it."""
        if event_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._try(event_id, sale), name=f"draw {event_id}")
            self._tasks[event_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(event_id, None))

    async def close(self) -> None:
        """Gives up what is under way; another process, or the next life of this one, begins again."""
        await cancel(list(self._tasks.values()))

    async def _try(self, event_id: int, sale: Sale) -> None:
        try:
            await self.run(event_id, sale)
        except Exception as error:  # noqa: BLE001 - whatever failed, the next tick begins again
            away = isinstance(error, EventLogUnavailable | RedisError | LineLost | PromiseBroken)
            metrics.QUEUE_EVENT_FAILURES.labels("draw").inc()
            fields = {"event_id": event_id, "error": type(error).__name__}
            _log.warning(
                "a draw cannot be held, and is begun again",
                exc_info=None if away else error,
                extra={"fields": fields},
            )
            await asyncio.sleep(RETRY_SECONDS)

    async def run(self, event_id: int, sale: Sale) -> bool:
        """Closes the list if it is time, and holds the draw; false while the list must stay open.

        Raises EventLogUnavailable, RedisError, LineLost, PromiseBroken: begin again.
        """
        closed = await self._store.close(event_id, sale.open_time)
        if closed is None:
            return False
        if not closed.held:
            outcome, entrants = await self._decide(event_id, sale, closed)
            await self._store.decide(event_id, outcome)
            await self._store.save_list(event_id, entrants)
            await self._enter(event_id, outcome, entrants, closed.entrant_count)
            await self._store.hold(event_id, outcome.key)
            fields = {"event_id": event_id, "entrants": outcome.entrant_count, "list_digest": outcome.list_digest.hex()}
            _log.info("draw held", extra={"fields": fields})
        return True

    async def _decide(self, event_id: int, sale: Sale, closed: Closed) -> tuple[Outcome, Entrants]:
        # Where nobody takes part, there is little to write twice; what is decided is read back in any case.
        since = await self._promises.earliest(event_id)
        decided = await self._log.find(event_id, since) if closed.entrant_count else None
        if decided is None:
            attempt, seed = uuid.uuid4().hex, await self._promises.seed(event_id)
            entrants = await self._store.entrants(event_id)
            if await self._store.close(event_id, sale.open_time) != closed or len(entrants) != closed.entrant_count:
                raise LineLost("the list was lost while it was read")
            await self._log.append_list(event_id, attempt, entrants)
            await self._log.append_outcome(event_id, attempt, await self._outcome(seed, closed, entrants))
            decided = await self._log.decided(event_id, since)
        return decided

    async def _outcome(self, seed: bytes, closed: Closed, entrants: Entrants) -> Outcome:
        digest = draw.ListDigest()
        for users, lanes in entrants.parts():
            digest.add(zip(users, lanes, strict=True))
            await asyncio.sleep(0)
        key = draw.draw_key(seed, digest.digest())
        return Outcome(closed.time, len(entrants), digest.digest(), seed, key)

    async def _enter(self, event_id: int, outcome: Outcome, entrants: Entrants, expected: int) -> None:
        present = 0
        for entries in await _by_score(outcome.key, entrants):
            present += await self._store.enter(event_id, outcome.key, entries)
        if not present == expected == len(entrants):
            await self._reconcile(event_id, outcome, entrants)

    async def _reconcile(self, event_id: int, outcome: Outcome, entrants: Entrants) -> None:
        """What another list calls for: the line was lost after its draw was decided, and before anyone had a place.

        Who came back with a proof of having entered, but is not in the list, had left it before it was closed: they
        stand where they joined, behind the drawn.
        """
        strangers = {user: joined async for user, joined in self._store.strangers(event_id, entrants)}
        for user_id, joined_us in strangers.items():
            await self._store.enter(event_id, outcome.key, [user_id, joined_us, -1])
        await self._store.drop(event_id, list(strangers))
        await self._store.take_over(event_id, entrants, outcome)


async def _by_score(key: bytes, entrants: Entrants) -> Sequence["array[int]"]:
    """Account, score and lane in turn, those of similar scores together: so Redis finds their places twice as fast."""
    count = len(entrants) // _AT_ONCE + 1
    batches = [array("q") for _ in range(count)]
    for users, lanes in entrants.parts():
        for user_id, score, lane in zip(users, draw.scores(key, users), lanes, strict=True):
            batches[score * count >> draw.SCORE_BITS].extend((user_id, score, lane))
        await asyncio.sleep(0)
    return [batch for batch in batches if batch]
