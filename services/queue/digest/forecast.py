"""What those who wait may expect: when they are called, as a range, and whether seats will be left then."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from services.common.place_in_digest import ForecastTable, Told, told_at
from services.queue.digest.odds import Demand
from services.queue.digest.throughput import Throughput

# The 90th percentile of the standard normal distribution.
_Z90: Final = 1.2816
# The middles of the tenths of that distribution.
_TENTHS: Final = (-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645)
_LONGEST_SECONDS: Final = 86_400.0

# How far the pace of the time to come may be off from that of now, as a share: operators turn at it, and the health of
# the shop does. Grows with the time in which they can, up to these.
_PACE_DOUBT: Final = 0.24
_PACE_DOUBT_SOON: Final = 0.08
_PACE_MOVES_SECONDS: Final = 60.0
# Who are let in together leave about together: slots come back in waves, of this share of a stay.
_WAVES: Final = 0.28
# Calls happen at ticks, five a second: half of the time between two of them is waited on average.
_TICK_WAIT: Final = 0.1
_TICK_DEVIATION: Final = 0.06

# With jitter of a fifth either way: one to one and a half seconds at the front, never more than ten at the back.
_POLL_FRONT_MS: Final = 1_250.0
_POLL_BACK_MS: Final = 8_000.0
# Someone whose turn is a minute and a half away asks every eight seconds: a tenth of the wait is soon enough.
_POLL_SHARE_OF_WAIT: Final = 0.1

# How a table is made: from positions no further apart than this factor, closer where what lies half-way between two of
# them is off by more than this. Anywhere between them it is then good to 2 % of a wait.
_KNOT_FACTOR: Final = 1.5
_WAIT_OFF: Final = 0.01
_SECONDS_OFF: Final = 0.05
_ODDS_OFF: Final = 0.02
# A draw gives every place with the same chance: so many of them stand for all.
_DRAW_PLACES: Final = 20


@dataclass(frozen=True, slots=True)
class Prospects:
    """What can be foreseen of a line at one instant."""

    throughput: Throughput
    waiting: Mapping[int, int]
    """People by lane."""
    weights: Mapping[int, int]
    """Calls by lane, relative to the other lanes in which people wait."""
    starts_in: float
    """Seconds until anyone may be called; 0 once they are."""
    demand: Demand
    is_over: bool
    """Whether nobody will be called any more."""
    doubt: float = 1.0
    """Scales the width of the range; other than 1 only in tests."""

    def at(self, lane: int, position: int) -> Told:
        """What is told at a position of a lane."""
        if self.is_over:
            return _over(self.demand)
        calls = self._calls_until(lane, position)
        p10, p50, p90 = self._wait(calls, (-_Z90, 0.0, _Z90))
        return Told(p10, p50, p90, self.demand.odds(calls - 1), poll_after_ms(p50))

    def in_draw(self, entrants: int) -> Told:
        """What everyone in the draw is told: any place is as likely as any other."""
        if self.is_over:
            return _over(self.demand)
        places = [max(1.0, entrants * (index + 0.5) / _DRAW_PLACES) for index in range(_DRAW_PLACES)]
        waits = sorted(wait for calls in places for wait in self._wait(calls, _TENTHS))
        p10, p50, p90 = (waits[int(len(waits) * share)] for share in (0.1, 0.5, 0.9))
        chances = [chance for calls in places if (chance := self.demand.odds(calls - 1)) is not None]
        odds = sum(chances) / len(chances) if chances else None
        return Told(p10, p50, p90, odds, poll_after_ms(p50))

    def table(self, lane: int) -> ForecastTable:
        """What is told in a lane, at positions between which it can be interpolated, to the one behind its end."""
        positions = _coarse(self.waiting[lane] + 1)
        told = {position: self.at(lane, position) for position in positions}
        for lower, upper in pairwise(positions):
            self._refine(lane, lower, upper, told)
        return ForecastTable(sorted(told), [told[position] for position in sorted(told)])

    def _refine(self, lane: int, lower: int, upper: int, told: dict[int, Told]) -> None:
        """Adds positions between two others until interpolation is good: few where things go evenly."""
        middle = (lower + upper) // 2
        if middle == lower:
            return
        exact = self.at(lane, middle)
        if not _is_close(exact, told_at(middle, ForecastTable([lower, upper], [told[lower], told[upper]]))):
            told[middle] = exact
            self._refine(lane, lower, middle, told)
            self._refine(lane, middle, upper, told)

    def _calls_until(self, lane: int, position: int) -> float:
        """People called, from all lanes, until this position is: each lane gets calls by its weight, or runs empty."""
        turns = position / self.weights.get(lane, 1)
        others = (
            min(waiting, turns * self.weights.get(other, 1)) for other, waiting in self.waiting.items() if other != lane
        )
        return position + sum(others)

    def _wait(self, calls: float, quantiles: Sequence[float]) -> list[float]:
        """Quantiles of the time until so many are called: those of a gamma distribution of this mean and variance."""
        mean = self.throughput.seconds_until(calls) + _TICK_WAIT
        variance = self._variance(calls, mean) * self.doubt**2
        return [min(self.starts_in + mean * _gamma_quantile(variance, z), _LONGEST_SECONDS) for z in quantiles]

    def _variance(self, calls: float, mean: float) -> float:
        """Of the time until so many are called, relative to the square of its mean."""
        horizon = mean / (mean + _PACE_MOVES_SECONDS)
        pace = _PACE_DOUBT_SOON + (_PACE_DOUBT - _PACE_DOUBT_SOON) * horizon
        share = self.throughput.share_bound_by_slots(calls)
        chance = share / calls
        waves = share * _WAVES * min(self.throughput.stay_seconds, mean) / mean
        tick = _TICK_DEVIATION / mean
        return pace**2 + self.throughput.doubt(calls) ** 2 + chance + waves**2 + tick**2


def poll_after_ms(wait_seconds: float) -> float:
    """When to ask again, before jitter: soon at the front, later at the back."""
    return min(max(wait_seconds * _POLL_SHARE_OF_WAIT * 1_000, _POLL_FRONT_MS), _POLL_BACK_MS)


def _over(demand: Demand) -> Told:
    return Told(0.0, 0.0, 0.0, demand.odds(math.inf), _POLL_BACK_MS)


def _gamma_quantile(variance: float, z: float) -> float:
    """Quantile of a gamma distribution with mean 1, by Wilson and Hilferty; `z` is that of the normal distribution."""
    ninth = variance / 9
    return float(max(0.0, 1 - ninth + z * math.sqrt(ninth)) ** 3)


def _coarse(last: int) -> list[int]:
    positions = [1]
    while positions[-1] < last:
        positions.append(min(max(positions[-1] + 1, int(positions[-1] * _KNOT_FACTOR)), last))
    return positions


def _is_close(exact: Told, mixed: Told) -> bool:
    waits = (
        (exact.eta_p10_seconds, mixed.eta_p10_seconds),
        (exact.eta_p50_seconds, mixed.eta_p50_seconds),
        (exact.eta_p90_seconds, mixed.eta_p90_seconds),
    )
    odds_differ = abs((exact.odds or 0.0) - (mixed.odds or 0.0))
    return odds_differ <= _ODDS_OFF and all(
        math.isclose(wait, told, rel_tol=_WAIT_OFF, abs_tol=_SECONDS_OFF) for wait, told in waits
    )
