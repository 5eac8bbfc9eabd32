"""How a line is run: what an operator decides."""

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_LANES: Final = 4
_LONGEST_NAME: Final = 40


class Mode(enum.StrEnum):
    """What a line does."""

    OPEN = "OPEN"
    HOLD = "HOLD"
    DRAIN = "DRAIN"


class PolicyOutOfRange(Exception):
    """A rule of the line has a value that it cannot have."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, low: float, high: float) -> None:
        super().__init__(f"{field} must be between {low:g} and {high:g}")
        self.metadata = {"field": field}


class LanesInvalid(Exception):
    """Lanes that cannot be set, or of which one that would go still has people."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, text: str = "a lane that still has people cannot go") -> None:
        super().__init__(text)
        self.metadata = {"field": "lanes"}


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane: what it is called, and how many are called from it, relative to the others that have people."""

    number: int
    name: str
    weight: int


GENERAL: Final = (Lane(0, "general", 1),)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a line is run. Raises PolicyOutOfRange."""

    mode: Mode
    rate_per_second: float
    inside_cap: int
    claim_window: timedelta
    admission: timedelta
    lanes: tuple[Lane, ...] = GENERAL

    def __post_init__(self) -> None:
        _within("rate_per_second", self.rate_per_second, 0.1, 10_000)
        _within("inside_cap", self.inside_cap, 1, 1_000_000)
        _within("claim_window_seconds", self.claim_window.total_seconds(), 10, 3_600)
        # Ten minutes is the longest life of an admission token.
        _within("admission_seconds", self.admission.total_seconds(), 30, 600)
        self._check_lanes()

    def _check_lanes(self) -> None:
        numbers = [lane.number for lane in self.lanes]
        if 0 not in numbers or len(set(numbers)) != len(numbers) or not set(numbers) <= set(range(_LANES)):
            raise LanesInvalid("lanes are numbered 0 to 3, each once, 0 among them")
        for lane in self.lanes:
            _within("lanes", lane.weight, 1, 1_000)
            if not (1 <= len(lane.name) <= _LONGEST_NAME and lane.name.isprintable()):
                raise LanesInvalid(f"the name of a lane has 1 to {_LONGEST_NAME} printable characters")


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN, too
        raise PolicyOutOfRange(field, low, high)
