"""A line in short at one instant, before anything is concluded from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.place_in_digest import LaneScores


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """One lane at one instant."""

    scores: LaneScores
    watermark: int
    """The highest score that was called."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How far calling was, and how many were inside, at one moment of the last minutes."""

    seconds: float
    """Since the epoch, on Redis' clock."""
    called: int
    inside: int


@dataclass(frozen=True, slots=True)
class LineSnapshot:
    """What Redis knows about a line. The lanes are some milliseconds younger than the rest."""

    now: datetime
    incarnation: int
    """Which life of the line this is; 0 while it is lost."""
    restoring: bool
    lanes: Mapping[int, LaneSnapshot]
    missed: int
    """People who missed a call, and are called again."""
    entrants: int
    entered: int
    """How many of them have a place in a lane already."""
    draw_key: bytes
    """Empty until the draw is held."""
    draw_held: bool
    sold_out: bool
    seats_left: int | None
    seats_total: int | None
    called: int
    inside: int
    observed_rate: float | None
    """Calls per second over the last minute in which people waited; None until somebody was called."""
    stays: Sequence[Sample]
    """Oldest first."""
    changed: Sequence[int]
    """Accounts whose places changed otherwise than by a call in the last seconds."""

    @property
    def in_draw(self) -> int:
        """People of the draw who have no place in a lane yet."""
        return 0 if self.draw_held else max(0, self.entrants - self.entered)

    @property
    def total_waiting(self) -> int:
        """People in line, in all lanes, or in the draw."""
        return sum(lane.scores.waiting for lane in self.lanes.values()) + self.missed + self.in_draw
