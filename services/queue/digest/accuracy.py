"""Whether forecasts come true: what people were told while they waited, against when they were called."""

import asyncio
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cachetools import LRUCache

from services.common import metrics
from services.common.place_in_digest import ForecastTable, LaneScores, Told, position_of, told_at
from services.queue.digest.reader import DigestReader
from services.queue.digest.report import Digest
from services.queue.failures import Failures
from services.queue.line.domain import SaleState
from services.queue.line.transitions import Fact, FactKind

INTERVAL: Final = timedelta(seconds=10)
# Whoever follows the event takes digests more often.
_RECENT: Final = timedelta(seconds=2)
# An hour of digests, each of some 15 kB for a line of a million.
_MOST_KEPT: Final = timedelta(hours=1) // INTERVAL
# Events that are judged at one time, those that called somebody last.
_MAX_EVENTS: Final = 16
# Nobody was called for so long: nothing to judge, and no need to read digests for it.
_QUIET_SECONDS: Final = 300.0
# Judged of one batch, evenly: a share needs no more, and the calls must not wait.
_SAMPLE: Final = 20
# Shorter waits are rounded and ticked away.
_SHORT: Final = 5.0
# Scores below are drawn numbers, others are times in µs.
_DRAWN: Final = 2**50
# The first positions are kept, and behind them no more than this far apart.
_EXACT: Final = 20
_STEP: Final = 1.05


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was told at one moment, in short."""

    seconds: float
    lanes: Mapping[int, tuple[LaneScores, ForecastTable]]


class _Event:
    """What was told of one event, oldest first, and when its line called somebody last; in seconds of Redis' clock."""

    __slots__ = ("called_at", "kept")

    def __init__(self) -> None:
        self.kept: deque[_Kept] = deque(maxlen=_MOST_KEPT)
        self.called_at = 0.0


class AccuracyLog:
    """Judges the events whose calls this process tells. `step` is to be called every ten seconds."""

    def __init__(self, reader: DigestReader) -> None:
        self._reader = reader
        self._events: LRUCache[int, _Event] = LRUCache(_MAX_EVENTS)
        self._failures = Failures("accuracy")

    def heard(self, event_id: int, facts: Sequence[Fact]) -> None:
        """Judges what those who were called for the first time had been told."""
        called = [fact for fact in facts if fact.kind is FactKind.CALLED and fact.calls == 1]
        if not called:
            return
        event = self._events.setdefault(event_id, _Event())
        event.called_at = called[-1].time.timestamp()
        for fact in called[:: max(1, len(called) // _SAMPLE)]:
            for outcome in _outcomes(event.kept, fact):
                metrics.QUEUE_ETA_WAITS.labels(outcome).inc()

    async def step(self) -> None:
        """Keeps a digest of each event that calls people."""
        events = dict(self._events)
        keeping = (self._keep(event_id, event) for event_id, event in events.items())
        outcomes = await asyncio.gather(*keeping, return_exceptions=True)
        failed = {
            event_id: each for event_id, each in zip(events, outcomes, strict=True) if isinstance(each, Exception)
        }
        self._failures.without(failed)

    async def _keep(self, event_id: int, event: _Event) -> None:
        digest = await self._reader.digest(event_id, _RECENT)
        now = digest.line.now.timestamp()
        if now > event.called_at + _QUIET_SECONDS:
            self._events.pop(event_id, None)
        elif digest.state is SaleState.OPEN:  # no hold can be foreseen, nor when it ends
            event.kept.append(_Kept(now, {lane: _short(digest, lane) for lane in digest.rules}))


def _short(digest: Digest, lane: int) -> tuple[LaneScores, ForecastTable]:
    """What a lane was told, with the first positions and then ever fewer: a fiftieth of a wait is near enough."""
    full = digest.line.lanes[lane].scores
    scores, positions = [*full.front, *full.samples], [*range(1, len(full.front) + 1), *full.sample_positions]
    picked, wanted = [], float(_EXACT + 1)
    for index in range(_EXACT, len(positions)):
        if positions[index] >= wanted or index == len(positions) - 1:
            picked.append(index)
            wanted = positions[index] * _STEP
    short = LaneScores(
        full.waiting,
        array("q", full.front[:_EXACT]),
        array("q", [scores[index] for index in picked]),
        array("q", [positions[index] for index in picked]),
    )
    return short, digest.tables[lane]


def _outcomes(kept: Sequence[_Kept], fact: Fact) -> Iterator[str]:
    """How the forecasts came true that somebody saw when they joined, or when they first could, and half-way."""
    moments = [each.seconds for each in kept]
    called = fact.time.timestamp()
    joined = fact.score / 1_000_000 if fact.score >= _DRAWN else 0.0
    first = bisect_left(moments, joined)
    if first == len(moments):
        return
    middle = bisect_left(moments, (moments[first] + called) / 2)
    for index in sorted({first, middle} - {len(moments)}):
        wait = called - moments[index]
        if wait < _SHORT or fact.lane not in kept[index].lanes:
            continue
        scores, table = kept[index].lanes[fact.lane]
        position = position_of(fact.score, scores)
        if position is not None:
            yield _judged(wait, told_at(position, table))


def _judged(wait: float, told: Told) -> str:
    if wait < told.eta_p10_seconds:
        return "early"
    return "late" if wait > told.eta_p90_seconds else "inside"
