"""The pace of the lines: how it falls when the shop suffers, and how it comes back."""

from datetime import timedelta

import pytest

from services.queue.admission.pace import FLOOR, Health, Limits, Pace, Reason

LIMITS = Limits(hold_p99=timedelta(milliseconds=100), event_log_lag=5_000, payment_backlog=500)
WELL = Health(timedelta(milliseconds=100), 5_000, 500)
SLOW = Health(hold_p99=timedelta(milliseconds=101))


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
    assert stepped(pace, SLOW, SLOW, WELL, WELL, SLOW) == [0.7, 0.49, 0.54, 0.59, 0.413]


def test_it_never_falls_below_its_floor_and_never_rises_above_the_policy() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, *[SLOW] * 20)[-1] == FLOOR
    recovery = stepped(pace, *[WELL] * 25, start=20.0)
    assert recovery[18] == 1.0
    assert recovery[17] < 1.0
    assert max(recovery) == 1.0


def test_silence_is_borne_for_five_seconds_and_then_slows_until_there_is_an_answer() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, None, None, None, None, None) == [1.0] * 5
    assert reasons_of(pace) == []
    assert stepped(pace, None, None, start=5.0) == [0.7, 0.49]
    assert reasons_of(pace) == [Reason.NO_ANSWER]
    assert stepped(pace, WELL, start=7.0) == [0.54]
    assert reasons_of(pace) == []


def test_a_second_of_silence_changes_nothing() -> None:
    pace = Pace(LIMITS, 0.0)
    assert stepped(pace, SLOW, None, None) == [0.7, 0.7, 0.7]
    assert reasons_of(pace) == [Reason.HOLD_LATENCY]


def test_steps_count_by_their_time_and_a_pause_of_the_process_by_two_seconds() -> None:
    often, rarely = Pace(LIMITS, 0.0), Pace(LIMITS, 0.0)
    for number in range(1, 11):
        often.step(SLOW, number / 10)
    assert often.factor == pytest.approx(0.7)
    rarely.step(SLOW, 60.0)
    assert rarely.factor == pytest.approx(0.49)
