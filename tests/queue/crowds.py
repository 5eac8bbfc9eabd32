"""A line in plain Python, for forecasts: who waits how long, under bounds that are set, by chance that is seeded."""

import heapq
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from services.common.place_in_digest import ForecastTable, Told, told_at
from services.queue.digest.forecast import Prospects
from services.queue.digest.odds import Demand
from services.queue.digest.snapshot import Sample
from services.queue.digest.throughput import Throughput, first_stay, observed_stay

_TICK: Final = 0.2
_SAMPLE_TICKS: Final = 25
_DIGEST_TICKS: Final = 50
# Waits below this are not judged.
_SHORT: Final = 5.0

Stay = Callable[[random.Random], float]


def lognormal(mean: float, spread: float) -> Stay:
    """How long shoppers take: many a little less than the mean, some much longer."""
    return lambda chance: chance.lognormvariate(math.log(mean) - spread**2 / 2, spread)


@dataclass(frozen=True)
class Sale:
    """What is simulated. Times are seconds after the opening."""

    rate: float
    cap: int
    stay: Stay
    first: int
    """People in line when the sale opens."""
    arrivals: float
    """People who join per second."""
    lasts: float = 1_500.0
    changes_at: float = math.inf
    changed_rate: float = 0.0
    no_shows: float = 0.0
    claim: float = 180.0
    admission: float = 600.0


@dataclass
class _Person:
    joined: float
    misses: bool
    missed: bool = False


@dataclass
class _State:
    waiting: deque[_Person] = field(default_factory=deque)
    slots_end: list[float] = field(default_factory=list)
    come_back: list[tuple[float, int, _Person]] = field(default_factory=list)
    tokens: float = 1.0
    called: int = 0
    observed: float = 0.0


@dataclass(frozen=True)
class Wait:
    """What somebody was told, and what came of it."""

    told: Told
    seconds: float

    @property
    def is_inside(self) -> bool:
        return self.told.eta_p10_seconds <= self.seconds <= self.told.eta_p90_seconds

    @property
    def width(self) -> float:
        return (self.told.eta_p90_seconds - self.told.eta_p10_seconds) / self.seconds


class Simulation:
    """One sale. Runs when it is made; `waits` are the forecasts to judge."""

    def __init__(self, sale: Sale, seed: int, doubt: float = 1.0) -> None:
        self._sale, self._chance, self._doubt = sale, random.Random(seed), doubt
        self._state = _State(observed=sale.rate)
        self._samples: list[Sample] = []
        self._tables: list[tuple[float, ForecastTable]] = []
        self._waits: list[tuple[float, float]] = []
        self._run()

    def waits(self) -> Iterator[Wait]:
        """Two forecasts for each wait: when it began, and at half of it."""
        taken_at = [taken for taken, _ in self._tables]
        calls = sorted(called for _, called in self._waits)
        for place, (joined, called) in enumerate(sorted(self._waits)):
            for moment in (joined, (joined + called) / 2):
                index = bisect_left(taken_at, moment)
                if index == len(taken_at) or called - taken_at[index] < _SHORT:
                    continue
                position = place + 1 - bisect_left(calls, taken_at[index])
                told = told_at(max(position, 1), self._tables[index][1])
                yield Wait(told, called - taken_at[index])

    def _run(self) -> None:
        sale, state = self._sale, self._state
        state.waiting.extend(self._person(0.0) for _ in range(sale.first))
        joins = self._chance.expovariate(sale.arrivals)
        for tick in range(int(sale.lasts / _TICK)):
            now = tick * _TICK
            if tick % _SAMPLE_TICKS == 0:
                self._samples = [*self._samples[-119:], Sample(now, state.called, len(state.slots_end))]
            if tick % _DIGEST_TICKS == 0:
                self._tables.append((now, self._prospects(now).table(0)))
            while joins <= now:
                state.waiting.append(self._person(joins))
                joins += self._chance.expovariate(sale.arrivals)
            self._admit(now)

    def _person(self, now: float) -> _Person:
        return _Person(now, misses=self._chance.random() < self._sale.no_shows)

    def _rate(self, now: float) -> float:
        return self._sale.changed_rate if now >= self._sale.changes_at else self._sale.rate

    def _prospects(self, now: float) -> Prospects:
        sale, state, rate = self._sale, self._state, self._rate(now)
        inside = len(state.slots_end)
        seen = min(rate, state.observed) if sale.cap - inside > rate else rate
        guess = first_stay(rate, sale.cap, sale.admission, sale.claim)
        stay, doubt = observed_stay(self._samples, guess, sale.admission + sale.claim)
        throughput = Throughput(seen, sale.cap, inside, stay, doubt)
        demand = Demand(state.called, inside, None, None)
        return Prospects(throughput, {0: len(state.waiting)}, {0: 1}, 0.0, demand, is_over=False, doubt=self._doubt)

    def _admit(self, now: float) -> None:
        state, rate = self._state, self._rate(now)
        while state.slots_end and state.slots_end[0] <= now:
            heapq.heappop(state.slots_end)
        while state.come_back and state.come_back[0][0] <= now:
            state.waiting.appendleft(heapq.heappop(state.come_back)[2])
        state.tokens = min(max(1.0, rate), state.tokens + rate * _TICK)
        backlog = bool(state.waiting)
        count = max(0, min(int(state.tokens), self._sale.cap - len(state.slots_end), len(state.waiting)))
        for _ in range(count):
            self._call(state.waiting.popleft(), now)
        state.tokens -= count
        state.called += count
        if backlog:
            state.observed += (1 - math.exp(-_TICK / 60)) * (count / _TICK - state.observed)

    def _call(self, person: _Person, now: float) -> None:
        sale, state = self._sale, self._state
        if not person.missed:
            self._waits.append((person.joined, now))
        if person.misses:
            heapq.heappush(state.slots_end, now + sale.claim)
            if not person.missed:
                person.missed = True
                heapq.heappush(state.come_back, (now + 2 * sale.claim, len(self._waits), person))
        else:
            heapq.heappush(state.slots_end, now + min(sale.stay(self._chance), sale.admission))
