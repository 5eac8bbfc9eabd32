"""What people are told of their wait comes true eight times in ten, and says something; so do the odds."""

import random
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from services.common.place_in_digest import told_at
from services.queue.digest.forecast import Prospects
from services.queue.digest.odds import Demand
from services.queue.digest.snapshot import Sample
from services.queue.digest.throughput import Throughput, first_stay, observed_stay
from tests.queue.crowds import Sale, Simulation, Wait, lognormal

_NOTHING_SOLD: Final = Demand(called=0, inside=0, seats_left=None, seats_total=None)

SALES: Final = {
    "the rate alone": Sale(20.0, 100_000, lognormal(120, 0.5), first=2_000, arrivals=22.0),
    "slots alone": Sale(50.0, 1_000, lognormal(120, 0.6), first=3_000, arrivals=9.0, no_shows=0.15),
    "a burst, then slots": Sale(20.0, 2_400, lognormal(240, 0.6), first=8_000, arrivals=8.0, no_shows=0.1),
    "a short burst, then waves": Sale(200.0, 400, lognormal(180, 0.6), first=1_500, arrivals=1.0),
    "a small sale": Sale(10.0, 200, lognormal(40, 0.7), first=2_000, arrivals=2.0, claim=30.0, admission=120.0),
    "slowed by an operator": Sale(
        20.0, 100_000, lognormal(120, 0.5), first=8_000, arrivals=12.0, changes_at=300.0, changed_rate=12.0
    ),
    "hastened by an operator": Sale(
        20.0, 100_000, lognormal(120, 0.5), first=8_000, arrivals=12.0, changes_at=300.0, changed_rate=30.0
    ),
}


def _inside(waits: list[Wait]) -> float:
    return sum(wait.is_inside for wait in waits) / len(waits)


@pytest.mark.parametrize("name", SALES)
def test_eight_in_ten_are_called_within_the_range_and_it_is_not_wide(name: str) -> None:
    waits = list(Simulation(SALES[name], seed=1).waits())

    long = [wait for wait in waits if wait.seconds >= 60]
    assert min(len(waits), len(long)) > 1_000
    assert _inside(waits) >= 0.8
    assert statistics.median(wait.width for wait in long) <= 1.05


def test_half_of_the_spread_does_not_hold_eight_in_ten() -> None:
    shares = [_inside(list(Simulation(sale, seed=1, doubt=0.5).waits())) for sale in SALES.values()]

    assert sum(share < 0.8 for share in shares) >= 2


def test_without_looking_at_slots_the_range_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Throughput, "_free", lambda _self, _stay: (float("inf"), float("inf")))

    assert _inside(list(Simulation(SALES["slots alone"], seed=1).waits())) < 0.5


def _prospects(waiting: dict[int, int], weights: dict[int, int], **changes: float) -> Prospects:
    throughput = replace(Throughput(10.0, 1_000_000, 0, 120.0, 0.5), **changes)  # type: ignore[arg-type] # by name
    return Prospects(throughput, waiting, weights, 0.0, _NOTHING_SOLD, is_over=False)


@pytest.mark.parametrize(
    ("lane", "position", "seconds"),
    [(0, 100, 40.0), (0, 500, 120.0), (1, 300, 40.0), (1, 700, 93.3)],
)
def test_lanes_take_turns_by_weight_until_they_are_empty(lane: int, position: int, seconds: float) -> None:
    # Lane 1 gets three calls for each of lane 0, and is empty when lane 0 has had 233.
    prospects = _prospects({0: 1_000, 1: 700}, {0: 1, 1: 3})

    assert prospects.at(lane, position).eta_p50_seconds == pytest.approx(seconds, rel=0.02)


def test_a_lowered_cap_is_waited_for() -> None:
    full, lowered = (_prospects({0: 9}, {0: 1}, inside_cap=cap, inside=200) for cap in (200, 100))

    assert lowered.throughput.seconds_until(1) - full.throughput.seconds_until(1) > 60


@pytest.mark.parametrize("cap", [1_000_000, 2_000, 200])
def test_interpolation_between_knots_is_within_two_percent(cap: int) -> None:
    prospects = _prospects({0: 60_000, 1: 800}, {0: 1, 1: 5}, inside_cap=cap, inside=20)
    for lane in (0, 1):
        table = prospects.table(lane)
        assert len(table.positions) < 90
        assert table.positions[-1] == prospects.waiting[lane] + 1
        for position in random.Random(5).sample(range(1, prospects.waiting[lane]), 500):
            exact, told = prospects.at(lane, position), told_at(position, table)
            assert told.eta_p50_seconds == pytest.approx(exact.eta_p50_seconds, rel=0.02, abs=0.05)
            assert told.eta_p90_seconds == pytest.approx(exact.eta_p90_seconds, rel=0.02, abs=0.05)
            assert told.eta_p10_seconds == pytest.approx(exact.eta_p10_seconds, rel=0.02, abs=0.05)


def test_who_is_near_asks_often_and_who_is_far_seldom() -> None:
    prospects = _prospects({0: 10_000}, {0: 1})

    assert [prospects.at(0, position).poll_after_ms for position in (1, 10_000)] == [1_250, 8_000]


def test_even_the_first_one_waits_for_a_tick() -> None:
    told = _prospects({0: 1}, {0: 1}, rate_per_second=10_000.0).at(0, 1)

    assert 0 < told.eta_p10_seconds < told.eta_p50_seconds < told.eta_p90_seconds < 1


def test_nobody_waits_for_a_sale_that_is_over() -> None:
    prospects = replace(_prospects({0: 10}, {0: 1}), is_over=True, demand=replace(_NOTHING_SOLD, sold_out=True))

    for told in (prospects.at(0, 5), prospects.in_draw(5)):
        assert (told.eta_p10_seconds, told.eta_p50_seconds, told.eta_p90_seconds, told.odds) == (0, 0, 0, 0)


def _steady(stay: float, inside: int, seconds: int) -> list[Sample]:
    return [Sample(float(now), inside + int(now * inside / stay), inside) for now in range(0, seconds, 5)]


def test_the_stay_is_learnt_from_slots_that_come_back() -> None:
    guess = first_stay(50.0, 1_000, 600.0, 180.0)
    assert observed_stay([], guess, 780.0) == (180.0, 0.5)

    stay, doubt = observed_stay(_steady(90.0, 1_000, 600), guess, 780.0)

    assert stay == pytest.approx(90, rel=0.05)
    assert doubt < 0.15


def _sales(seats: int, seed: int) -> Iterator[tuple[Demand, int]]:
    """What can be known in the middle of sales, and after how many more calls the last seat went."""
    chance = random.Random(seed)
    for _ in range(300):
        called, inside, idle = chance.randrange(60, seats // 3), 40, chance.uniform(0.2, 2)
        # Later buyers are not quite like the first ones.
        idle_later = idle * chance.lognormvariate(0, 0.4)
        sizes, many = (0, 1, 2, 4), 4 * seats
        wanted = chance.choices(sizes, (idle, 1, 2, 1), k=called) + chance.choices(sizes, (idle_later, 1, 2, 1), k=many)
        # Half of those inside have chosen.
        taken = sum(wanted[: called - inside // 2])
        gone, total = called, sum(wanted[:called])
        while total < seats and gone < len(wanted):
            total += wanted[gone]
            gone += 1
        yield Demand(called, inside, max(0, seats - taken), seats), gone - called


def test_odds_come_true() -> None:
    told: dict[int, list[bool]] = {}
    chance = random.Random(8)
    for demand, gone in _sales(1_000, seed=4):
        for _ in range(20):
            ahead = chance.randrange(2 * gone + 1)
            odds = demand.odds(ahead)
            assert odds is not None
            told.setdefault(round(odds * 4), []).append(ahead < gone)

    came = {quarter: statistics.mean(each) for quarter, each in told.items()}
    assert came[0] < 0.05
    assert came[4] > 0.95
    assert 0.1 < came[1] < 0.4
    assert 0.35 < came[2] < 0.65
    assert 0.6 < came[3] < 0.9


def test_odds_between_knots_are_within_a_twentieth() -> None:
    demand = Demand(called=500, inside=40, seats_left=3_000, seats_total=4_000)
    prospects = replace(_prospects({0: 20_000}, {0: 1}), demand=demand)
    table = prospects.table(0)

    for position in range(1, 20_000, 37):
        exact, told = prospects.at(0, position).odds, told_at(position, table).odds
        assert told == pytest.approx(exact, abs=0.05)


def test_odds_are_not_told_before_the_sale_has_shown_what_people_take() -> None:
    demand = Demand(called=100, inside=10, seats_left=900, seats_total=1_000)

    assert demand.odds(10) == 1.0
    assert replace(demand, called=29).odds(10) is None
    assert replace(demand, seats_left=None).odds(10) is None
    assert replace(demand, sold_out=True).odds(0) == 0.0
