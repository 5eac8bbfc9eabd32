"""Where someone stands, and what to tell them, computed from the digest of a lane instead of asked of Redis.

Plain lists and numbers: an edge process does this for every watcher and second. How a digest is made is queue's matter.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

FRONT: Final = 1_000
"""People of a lane whose positions are exact."""
SAMPLES: Final = 1_000
"""At most so many scores stand for everyone behind them."""

# A forecast moves all the time. It is worth a message when a time is off by more than the first two, or the odds by the
# third.
_NEWS_SHARE: Final = 0.15
_NEWS_SECONDS: Final = 5.0
_NEWS_ODDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class LaneScores:
    """What orders one lane, in short."""

    waiting: int
    """People in the lane."""
    front: Sequence[int]
    """Scores of the first people, ascending: the first is at position 1."""
    samples: Sequence[int]
    """Scores behind the front, ascending; the last one ends the lane."""
    sample_positions: Sequence[int]
    """The position of each sample."""


def position_of(score: int, lane: LaneScores) -> int | None:
    """The position of who has this score: 1 for the next one to be called.

    Exact in the front; behind it off by less than the distance of two samples, a thousandth of the people there. None
    where the front shows that nobody has this score any more: the owner must be asked for. Who came after the digest
    was taken stands behind its end.
    """
    front = lane.front
    if not front:
        return 1
    if score <= front[-1]:
        rank = bisect_left(front, score)
        return rank + 1 if front[rank] == score else None
    index = bisect_left(lane.samples, score)
    if index == len(lane.samples):
        return lane.waiting + 1
    return _between(score, lane, index)


def _between(score: int, lane: LaneScores, index: int) -> int:
    """The position of a score behind the front and not behind sample `index`, taking people as evenly spread."""
    upper_score, upper = lane.samples[index], lane.sample_positions[index]
    if score == upper_score:
        return upper
    if index:
        lower_score, lower = lane.samples[index - 1], lane.sample_positions[index - 1]
    else:
        lower_score, lower = lane.front[-1], len(lane.front)
    people = (score - lower_score) * (upper - lower) // (upper_score - lower_score)
    return min(max(lower + people, lower + 1), upper)


class Told(NamedTuple):
    """What someone is told beside the position. Times count from the instant of the digest."""

    eta_p10_seconds: float
    eta_p50_seconds: float
    eta_p90_seconds: float
    odds: float | None
    """Chance that seats are left when called; None while it is not known."""
    poll_after_ms: float


class Expected(NamedTuple):
    """What someone has been told to expect, as instants: told again a second later, the same times are other ones."""

    p50_at: float
    """In seconds of one clock, as the next."""
    p90_at: float
    odds: float | None


def is_news(expected: Expected, told: Expected, now: float) -> bool:
    """Whether a forecast differs so much from what was told that its owner should hear of it. Both are of one clock."""
    p50_at, p90_at, odds = expected
    new_p50_at, new_p90_at, new_odds = told
    # In this order, and without calls where little has changed, since that is so for almost everyone and second.
    return (
        (abs(new_p50_at - p50_at) > _NEWS_SECONDS and _is_off(p50_at - now, new_p50_at - now))
        or (abs(new_p90_at - p90_at) > _NEWS_SECONDS and _is_off(p90_at - now, new_p90_at - now))
        or (odds != new_odds and _are_other_odds(odds, new_odds))
    )


def _is_off(expected: float, told: float) -> bool:
    # Who was told a time that has passed expects to be called at any moment, not earlier than now.
    expected = max(expected, 0.0)
    off = abs(max(told, 0.0) - expected)
    return off > _NEWS_SECONDS and off > expected * _NEWS_SHARE


def _are_other_odds(expected: float | None, told: float | None) -> bool:
    if expected is None or told is None:
        return expected is not told
    return abs(told - expected) > _NEWS_ODDS


@dataclass(frozen=True, slots=True)
class ForecastTable:
    """What is told at some positions of a lane, ascending. The odds are known at all of them or at none."""

    positions: Sequence[int]
    told: Sequence[Told]


def told_at(position: int, table: ForecastTable) -> Told:
    """What is told at a position: interpolated, and beyond the ends of the table what stands there.

    Raises IndexError when the table is empty.
    """
    index = bisect_left(table.positions, position)
    if index == len(table.positions):
        return table.told[-1]
    upper = table.told[index]
    if index == 0 or table.positions[index] == position:
        return upper
    lower, start = table.told[index - 1], table.positions[index - 1]
    share = (position - start) / (table.positions[index] - start)
    odds = None if lower.odds is None or upper.odds is None else _mix(lower.odds, upper.odds, share)
    return Told(
        _mix(lower.eta_p10_seconds, upper.eta_p10_seconds, share),
        _mix(lower.eta_p50_seconds, upper.eta_p50_seconds, share),
        _mix(lower.eta_p90_seconds, upper.eta_p90_seconds, share),
        odds,
        _mix(lower.poll_after_ms, upper.poll_after_ms, share),
    )


def _mix(lower: float, upper: float, share: float) -> float:
    return lower + (upper - lower) * share
