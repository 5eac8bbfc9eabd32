"""What the transitions of a line take and answer: values, standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.queue.line.domain import Sale

# People called, or ended of each kind, in one run of admission: below ten milliseconds of Redis.
MAX_BATCH: Final = 250


@dataclass(frozen=True, slots=True)
class JoinCommand:
    """Someone wants a place, or theirs back: `restore_score` is of a signed place that was verified."""

    event_id: int
    user_id: int
    sale: Sale
    restore_score: int | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """A place that stands, and whether this call took it."""

    score: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """A claimed place: until when, since when, its time of joining, and whether this call claimed it."""

    until: datetime
    since: datetime
    score: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run of admission did, and how the line is after it."""

    called: int
    expired: int
    waiting: int
    inside: int
    unpublished: int
    over: bool
    # Called out of order or beyond the cap: must be 0. Judged from what the run left behind, not by the run itself.
    jumpers: int

    @property
    def is_full(self) -> bool:
        """Whether there may be more to do at once."""
        return self.called >= MAX_BATCH or self.expired >= MAX_BATCH

    @property
    def is_quiet(self) -> bool:
        """Whether no tick has anything to do until somebody joins."""
        return self.inside == 0 and self.unpublished == 0 and (self.waiting == 0 or self.over)


@dataclass(frozen=True, slots=True)
class Call:
    """The fact that someone was called; `call_id` never changes and is never used again."""

    call_id: str
    user_id: int
    time: datetime
    claim_expire_time: datetime


@dataclass(frozen=True, slots=True)
class Purchase:
    """The fact that someone has bought."""

    event_id: int
    user_id: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How many seats of an event are left."""

    event_id: int
    time: datetime
    seats_total: int
    seats_left: int
    seats_sold: int


def out_of_order(called: Sequence[int], front: int | None) -> int:
    """How many were called before somebody with a smaller score, who was called later or waits at the front."""
    jumpers, smallest = 0, front
    for score in reversed(called):
        if smallest is not None and score > smallest:
            jumpers += 1
        else:
            smallest = score
    return jumpers
