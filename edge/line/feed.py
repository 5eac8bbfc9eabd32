"""Tells everyone who watches one line where they stand, once a second, from its newest digest.

An idle watcher is an object in a set and a coroutine that waits; nothing wakes it but news.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb

from edge.line.digest import Common, LineView
from edge.line.documents import common_for, document
from edge.line.lookups import Lookups
from edge.line.places import INSIDE, Known, KnownPlaces, Standing, is_due, stand
from edge.line.subscription import Subscription
from edge.streams import EventStream, in_slices
from services.common import errors, metrics
from services.common.place_in_digest import Expected, is_news

# As rare as the contract promises. A digest may come a little early after a late one.
_INTERVAL: Final = 0.8

_log = logging.getLogger(__name__)

# Of this any change is news.
_Facts = tuple[Common, int, int]


class Watcher:
    """One open stream: whose it is, and what it was told last."""

    __slots__ = ("ended", "expected", "known", "stream", "told", "told_at")

    def __init__(self, stream: EventStream, known: Known) -> None:
        self.stream = stream
        self.known = known
        self.told: _Facts | None = None
        self.expected = Expected(0.0, 0.0, None)
        self.told_at = 0.0
        # The handler waits for it: None when all has been said, or what the stream ends with.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """Ends the stream."""
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """Ends the stream with a problem."""
        if not self.ended.done():
            self.ended.set_exception(error)


class Feed:
    """Everyone in this process who watches one line."""

    def __init__(self, subscription: Subscription, places: KnownPlaces, lookups: Lookups) -> None:
        self._subscription = subscription
        self._places = places
        self._lookups = lookups
        self._watchers: set[Watcher] = set()
        # Whom to ask for, with those who wait for the answer.
        self._due: dict[int, list[Watcher]] = {}
        self._asking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._watchers)

    async def follow(self, stream: EventStream, known: Known) -> None:
        """Tells the place now, then its news, to the last word. Raises what queue says when the place is no more."""
        watcher = Watcher(stream, known)
        now, view = _now(), self._subscription.fresh(_now())
        standing = _standing(known, view)
        watcher.told, watcher.expected, watcher.told_at = (
            _facts(known, standing, view),
            _expected(known, standing, view),
            now,
        )
        await stream.send(document(known, standing, view, now))
        if _is_last_word(known, common_for(known, view)):
            return
        self._watchers.add(watcher)
        known.watchers += 1
        try:
            await watcher.ended
        finally:
            known.watchers -= 1
            self._watchers.discard(watcher)

    async def run(self) -> None:
        """Serves the watchers whenever a digest has come, until cancelled."""
        arrived = self._subscription.arrived
        while True:
            await arrived.wait()
            arrived.clear()
            started, view = _now(), self._subscription.view
            if view is not None and self._watchers:
                await self._tick(view)
                metrics.LINE_LATENESS.observe(_now() - view.received)
            await asyncio.sleep(max(0.0, started + _INTERVAL - _now()))

    def end(self) -> None:
        """Ends every stream: their clients come back."""
        for watcher in self._watchers:
            watcher.end()

    async def stop(self) -> None:
        """Stops asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _tick(self, view: LineView) -> None:
        for watchers in in_slices(list(self._watchers)):
            self._serve(watchers, view)
            if self._due and (self._asking is None or self._asking.done()):
                self._asking = asyncio.create_task(self._ask())
            await asyncio.sleep(0)

    def _serve(self, watchers: Iterable[Watcher], view: LineView) -> None:
        now = _now()
        for watcher in watchers:
            known = watcher.known
            standing = stand(known, view)
            if standing.question and is_due(standing.question, known, now):
                self._note_due(watcher, standing.question)
                # Who is inside hears the news of the line meanwhile; anyone else may have been called.
                if standing.question != INSIDE:
                    continue
            if now - watcher.told_at >= _INTERVAL:
                _tell(watcher, standing, view, now)

    def _note_due(self, watcher: Watcher, cause: str) -> None:
        known = watcher.known
        if known.user_id in self._due:
            self._due[known.user_id].append(watcher)
        elif not known.is_asked:
            known.is_asked = True
            metrics.LINE_LOOKUPS.labels(cause).inc()
            self._due[known.user_id] = [watcher]

    async def _ask(self) -> None:
        """Asks for everyone who is due, and tells them. Who gets no answer is due again at the next tick."""
        while self._due:
            due, self._due = self._due, {}
            try:
                await self._ask_for(due)
            except (errors.Unavailable, TimeoutError):
                # Queue is away, which has been logged.
                return
            except Exception:  # noqa: BLE001 - whatever it is, it must be seen
                _log.exception("could not ask for places")
                return
            finally:
                for watchers in due.values():
                    watchers[0].known.is_asked = False

    async def _ask_for(self, due: dict[int, list[Watcher]]) -> None:
        event_id = next(iter(due.values()))[0].known.event_id
        calls = {user_id: watchers[0].known.calls for user_id, watchers in due.items()}
        asked, era = _now(), self._subscription.era
        async for outcomes in self._lookups.many(event_id, list(due)):
            for user_id, outcome in outcomes:
                known = due[user_id][0].known
                if known.calls == calls[user_id]:
                    self._take(known, due[user_id], outcome, asked=asked, era=era)
            asked, era = _now(), self._subscription.era

    def _take(
        self, known: Known, watchers: list[Watcher], outcome: pb.Place | Exception, *, asked: float, era: int
    ) -> None:
        if isinstance(outcome, Exception):
            if not errors.describe(outcome).is_fault:
                self._places.forget(known)
                for watcher in watchers:
                    watcher.fail(outcome)
            return
        known.learn(outcome, asked=asked, era=era)
        view, now = self._subscription.view, _now()
        if view is not None:
            standing = stand(known, view)
            for watcher in watchers:
                _tell(watcher, standing, view, now)


def _tell(watcher: Watcher, standing: Standing, view: LineView, now: float) -> None:
    """Sends what is news. Who has not read the last event yet is told the news of a later tick."""
    known = watcher.known
    facts, expected = (view.common, standing.position, known.version), _expected(known, standing, view)
    if watcher.ended.done() or (facts == watcher.told and not is_news(watcher.expected, expected, now)):
        return
    if watcher.stream.offer(document(known, standing, view, now), now):
        watcher.told, watcher.expected, watcher.told_at = facts, expected, now
        if _is_last_word(known, view.common):
            watcher.end()


def _standing(known: Known, view: LineView | None) -> Standing:
    return stand(known, view) if view is not None else Standing("", known.answered_position, None)


def _facts(known: Known, standing: Standing, view: LineView | None) -> _Facts:
    return common_for(known, view), standing.position, known.version


def _expected(known: Known, standing: Standing, view: LineView | None) -> Expected:
    told = standing.forecast
    if told is None or view is None:
        return known.expected()
    received = view.received
    return Expected(received + told.eta_p50_seconds, received + told.eta_p90_seconds, told.odds)


def _is_last_word(known: Known, common: Common) -> bool:
    """Whether nothing more will be told: the place is used up, or nobody who waits will get further."""
    return known.is_final or (common.is_over and known.state != pb.Place.STATE_ADMITTED)


def _now() -> float:
    return asyncio.get_running_loop().time()
