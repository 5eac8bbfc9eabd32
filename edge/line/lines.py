"""The lines that somebody looks at through this process."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb

from edge.line.digest import LineView
from edge.line.documents import document
from edge.line.feed import Feed
from edge.line.lookups import Lookups
from edge.line.places import UNKNOWN, Known, KnownPlaces, Standing, is_due, stand
from edge.line.subscription import NoDigests, OpenDigests, Subscription
from services.common import errors, metrics
from services.common.cancellation import cancel

# A line that nobody looked at for so long is followed no more.
_IDLE_SECONDS: Final = 60.0
# Of more events than are on sale at a time, looks cost calls; a stranger with much time could ask for all there are.
_MOST_LINES: Final = 256
# Who comes first waits so long for the first digest.
_SETTLE_SECONDS: Final = 1.0
# When queue made no digests, it is asked again after this time: it may have been renewed.
_PLAIN_SECONDS: Final = 60.0
_SWEEP_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class _Line:
    """One line that is followed: its digests, its watchers, and the tasks that serve them."""

    def __init__(self, subscription: Subscription, feed: Feed) -> None:
        self.subscription = subscription
        self.feed = feed
        self.task: asyncio.Task[None] | None = None
        self.opened = self.used = asyncio.get_running_loop().time()

    @property
    def newest(self) -> float:
        """When the newest digest came. Until the first one has, the line is as old as its subscription."""
        view = self.subscription.view
        return self.opened if view is None else view.received

    async def stop(self) -> None:
        await cancel([self.task] if self.task is not None else [])
        await self.feed.stop()


@dataclass(slots=True)
class Change:
    """What came of a call that may change a place."""

    # The place, if the call tells it.
    place: pb.Place | None = None


class Lines:
    """Answers GetPlace and WatchPlace. `sweep` must run beside it, and `close` come before the end of its channel."""

    def __init__(self, open_digests: OpenDigests, lookups: Lookups, places: KnownPlaces | None = None) -> None:
        self._open_digests = open_digests
        self._lookups = lookups
        self._places = KnownPlaces() if places is None else places
        self._lines: dict[int, _Line] = {}
        self._plain_until = float("-inf")

    async def place(self, event_id: int, user_id: int) -> bytes:
        """The answer of GetPlace. Raises what queue refuses with, Unavailable, TimeoutError."""
        known, view = await self._look(event_id, user_id)
        standing = stand(known, view) if view is not None else _as_answered(known)
        return document(known, standing, view, _now())

    async def feed(self, event_id: int, user_id: int) -> tuple[Feed, Known] | None:
        """What to follow a place with; None where there are no digests to tell it from. Raises as `place`."""
        known, _ = await self._look(event_id, user_id)
        line = self._lines.get(event_id)
        if line is None:
            return None
        # Whoever came first waits for the first digest: it shows whether there are any.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await line.subscription.settled.wait()
        return (line.feed, known) if self._lines.get(event_id) is line else None

    @contextlib.contextmanager
    def change(self, event_id: int, user_id: int) -> Iterator[Change]:
        """Surrounds a call that may change a person's place: older answers are worth nothing then, also if it fails."""
        asked, era = _now(), self._era(event_id)
        change = Change()
        try:
            yield change
        finally:
            self._places.note_call(event_id, user_id)
            if change.place is not None:
                known = self._places.find_or_begin(event_id, user_id)
                known.learn(change.place, asked=asked, era=era)
                self._places.keep(known)

    async def _look(self, event_id: int, user_id: int) -> tuple[Known, LineView | None]:
        """What is known of a person, by an answer of queue that holds now; and the line, if its digest is fresh."""
        known, view, now = self._places.find(event_id, user_id), self._view(event_id), _now()
        cause = UNKNOWN
        if known is not None and view is not None:
            cause = stand(known, view).question
            if not is_due(cause, known, now):
                self._use(event_id)
                return known, view
        known = await self._ask(event_id, user_id, cause)
        self._use(event_id)
        return known, self._view(event_id)

    async def _ask(self, event_id: int, user_id: int, cause: str) -> Known:
        known, asked, era = self._places.find_or_begin(event_id, user_id), _now(), self._era(event_id)
        calls = known.calls
        try:
            place = await self._lookups.one(event_id, user_id, cause)
        except Exception as error:
            if not errors.describe(error).is_fault:
                self._refused(known)
            raise
        if known.calls == calls:
            known.learn(place, asked=asked, era=era)
            self._places.keep(known)
            return known
        # Something was done meanwhile, and this may be older: it answers who asked, and is not kept.
        answered = Known(event_id, user_id)
        answered.learn(place, asked=asked, era=era)
        return answered

    def _refused(self, known: Known) -> None:
        """Streams of who has no place any more hear of it at their next tick, from queue itself."""
        known.is_outdated = True
        if not known.watchers:
            self._places.forget(known)

    def _view(self, event_id: int) -> LineView | None:
        line = self._lines.get(event_id)
        return line.subscription.fresh(_now()) if line is not None else None

    def _era(self, event_id: int) -> int:
        line = self._lines.get(event_id)
        return line.subscription.era if line is not None else 0

    def _use(self, event_id: int) -> None:
        """Follows the line from now on. Only for an event in which somebody has a place."""
        line = self._lines.get(event_id)
        if line is not None:
            line.used = _now()
        elif len(self._lines) < _MOST_LINES and _now() >= self._plain_until:
            self._lines[event_id] = self._open(event_id)

    def _open(self, event_id: int) -> _Line:
        subscription = Subscription(event_id, self._open_digests)
        line = _Line(subscription, Feed(subscription, self._places, self._lookups))
        # What serves everyone must not go by the name of who came first.
        line.task = asyncio.get_running_loop().create_task(self._follow(event_id, line), context=contextvars.Context())
        return line

    async def _follow(self, event_id: int, line: _Line) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(line.subscription.run())
                group.create_task(line.feed.run())
        except* NoDigests:
            _log.warning("queue makes no digests: places are asked for one by one")
            self._plain_until = _now() + _PLAIN_SECONDS
        except* Exception as faults:  # noqa: BLE001 - whatever it is, it must be seen
            _log.exception("a line is followed no more", exc_info=faults)
        finally:
            # Streams end, and their clients come back; the next look opens the line anew.
            if self._lines.get(event_id) is line:
                del self._lines[event_id]
            line.subscription.settled.set()
            line.feed.end()

    async def sweep(self) -> None:
        """Closes lines that nobody looks at any more, and measures the others, until cancelled."""
        while True:
            now = _now()
            for event_id, line in list(self._lines.items()):
                if len(line.feed):
                    line.used = now
                elif now - line.used > _IDLE_SECONDS:
                    del self._lines[event_id]
                    await line.stop()
            self._measure(now)
            await asyncio.sleep(_SWEEP_SECONDS)

    def _measure(self, now: float) -> None:
        metrics.LINE_DIGESTS.set(len(self._lines))
        metrics.LINE_DIGEST_AGE.set(max((now - line.newest for line in self._lines.values()), default=0.0))

    async def close(self) -> None:
        """Ends everything."""
        lines, self._lines = list(self._lines.values()), {}
        await asyncio.gather(*(line.stop() for line in lines))


def _as_answered(known: Known) -> Standing:
    return Standing("", known.answered_position, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
