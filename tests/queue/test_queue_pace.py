"""The pace of the lines: how it falls when the shop suffers, and how it comes back."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from services.inventory import shop
from services.inventory.shop import HoldTimes
from services.queue.admission import pace as pacing
from services.queue.admission.pace import FLOOR, Health, Limits, Pace, Reason

LIMITS = Limits(hold_p99=timedelta(milliseconds=100), event_log_lag=5_000, payment_backlog=500)
WELL = Health(timedelta(milliseconds=100), 5_000, 500)
SLOW = Health(hold_p99=timedelta(milliseconds=101))
LAGS = Health(event_log_lag=5_001)


def reasons_of(pace: Pace) -> list[Reason]:
    return list(pace.slowed_by)


def stepped(pace: Pace, *heard: Health | None, start: float = 0.0) -> list[float]:
    """The pace after each second."""
    factors = []
    for second, health in enumerate(heard, start=1):
        pace.step(health, start + second)
        factors.append(round(pace.factor, 4))
    return factors


@pytest.mark.parametrize(
    ("health", "reasons"),
    [
        (WELL, ()),
        (Health(), ()),
        (SLOW, (Reason.HOLD_LATENCY,)),
        (Health(event_log_lag=5_001), (Reason.EVENT_LOG_LAG,)),
        (Health(payment_backlog=501), (Reason.PAYMENT_BACKLOG,)),
        (Health(timedelta(seconds=1), 9_999, 9_999), tuple(Reason)[:3]),
    ],
)
def test_what_is_above_its_limit_slows_and_what_is_not_known_does_not(
    health: Health, reasons: tuple[Reason, ...]
) -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, health) == [0.7 if reasons else 1.0]
    assert pace.slowed_by == reasons


def test_it_falls_by_a_share_of_itself_and_comes_back_step_by_step() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, LAGS, LAGS, WELL, WELL, LAGS) == [0.7, 0.49, 0.59, 0.69, 0.483]


def test_it_never_falls_below_its_floor_and_never_rises_above_the_policy() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, *[LAGS] * 20)[-1] == FLOOR
    recovery = stepped(pace, *[WELL] * 15, start=20.0)
    assert recovery[9] == 1.0
    assert recovery[8] < 1.0
    assert max(recovery) == 1.0


def test_silence_is_borne_for_five_seconds_and_then_slows_until_there_is_an_answer() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, None, None, None, None, None) == [1.0] * 5
    assert reasons_of(pace) == []
    assert stepped(pace, None, None, start=5.0) == [0.7, 0.49]
    assert reasons_of(pace) == [Reason.NO_ANSWER]
    assert stepped(pace, WELL, start=7.0) == [0.59]
    assert reasons_of(pace) == []


def test_a_second_of_silence_changes_nothing() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, SLOW, None, None) == [0.7, 0.7, 0.7]
    assert reasons_of(pace) == [Reason.HOLD_LATENCY]


def test_steps_count_by_their_time_and_a_pause_of_the_process_by_two_seconds() -> None:
    often, rarely = Pace(LIMITS, 0.0), Pace(LIMITS, 0.0)
    for number in range(1, 11):
        often.step(LAGS, number / 10)
    assert often.factor == pytest.approx(0.7)
    rarely.step(LAGS, 60.0)
    assert rarely.factor == pytest.approx(0.49)


def test_the_latency_counts_once_while_it_tells_of_the_same_seconds_and_then_doubly() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, *[SLOW] * 6, WELL, SLOW) == [0.7] * 5 + [0.35, 0.45, 0.45]
    assert stepped(pace, *[SLOW] * 3, start=8.0) == [0.45, 0.45, 0.315]  # it had been well meanwhile


def simulated(is_slow: Callable[[float], bool], *, seconds: int, asked_at: int) -> dict[float, float]:
    """The pace over time, of a shop that holds seats fifty times a second and collects its figures each second.

    Queue asks `asked_at` fiftieths of a second after the figures were collected.
    """
    now, told, factors = 0.0, Health(), {}
    times, pace = HoldTimes(lambda: now), Pace(LIMITS, 0.0)
    for tick in range(1, seconds * 50 + 1):
        now = tick / 50
        times.note(0.3 if is_slow(now) else 0.002, requests=5)
        if tick % 50 == 0:
            told = Health(hold_p99=times.p99())
        if tick % 50 == asked_at:
            pace.step(told, now)
            factors[now] = pace.factor
    return factors


def slow_second(start: float, *, asked_at: int) -> dict[float, float]:
    return simulated(lambda now: start <= now <= start + 1, seconds=20, asked_at=asked_at)


def test_queue_waits_as_long_as_a_slow_second_shows() -> None:
    assert (shop.WINDOW + shop.COLLECT_EVERY).total_seconds() + 1 == pacing._REMEMBERED


@pytest.mark.parametrize("asked_at", [0, 1, 25, 49])
@pytest.mark.parametrize("start", [5.0, 5.02, 5.5, 5.98])
def test_a_slow_second_costs_three_tenths_and_is_forgotten_within_ten_seconds(start: float, asked_at: int) -> None:
    factors = slow_second(start, asked_at=asked_at)
    assert min(factors.values()) == pytest.approx(0.7)
    assert {factor for at, factor in factors.items() if at >= start + 10} == {1.0}


@pytest.mark.parametrize("asked_at", [0, 25, 49])
def test_a_lasting_overload_reaches_the_floor_within_thirty_seconds(asked_at: int) -> None:
    factors = simulated(lambda now: now >= 5.5, seconds=40, asked_at=asked_at)
    assert {factor for at, factor in factors.items() if at >= 35.5} == {FLOOR}


def test_control_with_a_long_window_and_a_cut_each_second_a_slow_second_ends_on_the_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shop, "WINDOW", timedelta(seconds=10))
    monkeypatch.setattr(pacing, "_REMEMBERED", 0.0)
    monkeypatch.setattr(pacing, "_LASTING", 0.7)
    factors = slow_second(5.0, asked_at=25)
    assert min(factors.values()) == FLOOR
    assert factors[15.5] == FLOOR


@pytest.mark.parametrize(
    ("where", "name", "value"), [(shop, "WINDOW", timedelta(seconds=10)), (pacing, "_REMEMBERED", 0.0)]
)
def test_control_neither_the_window_nor_the_pause_is_enough_alone(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, value: object
) -> None:
    monkeypatch.setattr(where, name, value)
    assert min(slow_second(5.0, asked_at=25).values()) < 0.5
