"""How fast the shop lets the line go: additive increase, multiplicative decrease. Standard library only."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

# Even a shop that suffers lets somebody in: whether it has recovered shows only when people come.
FLOOR: Final = 0.05
# Too much takes three tenths of the rate; a second below all limits gives a tenth of the full rate back.
_DECREASE: Final = 0.7
_INCREASE: Final = 0.1
# A latency that is still too high when a slow second is forgotten is no accident: half, as in TCP.
_LASTING: Final = 0.5
# Seconds for which one slow second shows in the latency: inventory's window of three, that second itself, and one until
# it is told. Within them the latency says nothing new.
_REMEMBERED: Final = 5.0
# Longer than a restart of inventory's process behind its balancer, much shorter than people's patience.
SILENCE: Final = timedelta(seconds=5)
# A process that stood still knows nothing of the time in between, and does not make up for it.
_LONGEST_STEP: Final = 2.0


class Reason(StrEnum):
    """What slows the line, as operators are told."""

    HOLD_LATENCY = "hold_latency"
    EVENT_LOG_LAG = "event_log_lag"
    PAYMENT_BACKLOG = "payment_backlog"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Health:
    """What inventory told of itself; None where it could not tell."""

    hold_p99: timedelta | None = None
    event_log_lag: int | None = None
    payment_backlog: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Figures above these slow the line."""

    hold_p99: timedelta
    event_log_lag: int
    payment_backlog: int

    def exceeded_by(self, health: Health) -> Iterator[Reason]:
        """The reasons to slow down. What is not known is none."""
        if health.hold_p99 is not None and health.hold_p99 > self.hold_p99:
            yield Reason.HOLD_LATENCY
        if health.event_log_lag is not None and health.event_log_lag > self.event_log_lag:
            yield Reason.EVENT_LOG_LAG
        if health.payment_backlog is not None and health.payment_backlog > self.payment_backlog:
            yield Reason.PAYMENT_BACKLOG


class Pace:
    """The share of its rate that a line may use now, and why it is not all of it. Times are seconds that never go back.

    A single second without an answer changes nothing: neither does it say that the shop suffers, nor that it is well.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._stepped_at = now
        self._heard_at = now
        self._cut_at = float("-inf")
        self._well_since_cut = True
        self.factor = 1.0
        self.slowed_by: tuple[Reason, ...] = ()

    def step(self, heard: Health | None, now: float) -> None:
        """Takes in what was heard since the last step, about a second ago; None when nothing was."""
        elapsed = min(now - self._stepped_at, _LONGEST_STEP)
        self._stepped_at = now
        if heard is not None:
            self._heard_at = now
            self.slowed_by = tuple(self._limits.exceeded_by(heard))
        elif now - self._heard_at > SILENCE.total_seconds():
            self.slowed_by = (Reason.NO_ANSWER,)
        else:
            return
        if self.slowed_by:
            self._slow(elapsed, now)
        else:
            self._well_since_cut = True
            self.factor = min(1.0, self.factor + _INCREASE * elapsed)

    def _slow(self, elapsed: float, now: float) -> None:
        """A lag, a backlog and silence are of now, and count each second. The latency tells of the last seconds."""
        if self.slowed_by != (Reason.HOLD_LATENCY,):
            self._cut(_DECREASE**elapsed, now)
        elif now - self._cut_at >= _REMEMBERED:
            self._cut(_DECREASE if self._well_since_cut else _LASTING, now)

    def _cut(self, share: float, now: float) -> None:
        self.factor = max(FLOOR, self.factor * share)
        self._cut_at, self._well_since_cut = now, False
