"""What the transitions of a line take and answer: values, standard library only."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.queue.line.domain import Line, Policy, Sale, Standing

# People called, or ended of each kind, in one run of admission: below ten milliseconds of Redis.
MAX_BATCH: Final = 250


class Proof(NamedTuple):
    """A place that a signed place proves, or the draw. Score 0: its owner was in the draw."""

    score: int
    # Time of joining; 0 where it is not known.
    join_us: int
    # None where it is not known.
    lane: int | None = 0


class JoinCommand(NamedTuple):
    """Someone wants a place, or theirs back; `lane` is that of a verified pass."""

    event_id: int
    user_id: int
    sale: Sale
    proof: Proof | None = None
    lane: int | None = None


class Joined(NamedTuple):
    """A place that stands, how it came to be, and the line of the same instant."""

    outcome: str
    line: Line
    standing: Standing

    @property
    def fresh(self) -> bool:
        """Whether this call took the place, or took it back."""
        return self.outcome != "found"

    @property
    def score(self) -> int:
        """What orders the lane."""
        return self.standing.score


@dataclass(frozen=True, slots=True)
class Admission:
    """A claimed place: until when, since when, and what ordered its lane."""

    until: datetime
    since: datetime
    score: int
    lane: int
    # The fact in the outbox, when this call claimed the place; "" at a repeat.
    fact_id: str
    # The life of the line in which this is so.
    incarnation: int

    @property
    def fresh(self) -> bool:
        """Whether this call claimed the place."""
        return bool(self.fact_id)


@dataclass(frozen=True, slots=True)
class Lapsed:
    """What had run out."""

    expired: int
    # First calls that were missed, and people who stand in their lane again for the second.
    missed: int
    returned: int
    # People who wait for a draw that is not held.
    in_draw: int
    # Claim windows and admissions that a hold, or an event log that is away, made longer.
    prolonged: int


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run of admission did, and how the line is after it."""

    called: int
    lapsed: Lapsed
    # In all lanes.
    waiting: int
    # Who missed a call and is called again later.
    missed: int
    inside: int
    unpublished: int
    # The sale is closed, or every seat sold: nobody is called any more.
    over: bool
    # The sale is open and the draw is to be held: until then nobody is called.
    needs_draw: bool
    # People come back to a line that was lost: until they have, nobody is called.
    restoring: bool
    # People can be called now.
    calling: bool
    # Called out of order or beyond the cap: must be 0. Judged from what the run left behind, not by the run itself.
    jumpers: int

    @property
    def expired(self) -> int:
        """Places that ended."""
        return self.lapsed.expired

    @property
    def is_full(self) -> bool:
        """Whether there may be more to do at once."""
        lapsed = self.lapsed
        return max(self.called, lapsed.expired, lapsed.missed, lapsed.returned, lapsed.prolonged) >= MAX_BATCH

    @property
    def is_quiet(self) -> bool:
        """Whether no tick has anything to do until somebody joins."""
        nobody_waits = self.waiting + self.missed + self.lapsed.in_draw == 0 and not self.needs_draw
        return self.inside == 0 and self.unpublished == 0 and (nobody_waits or self.over)


class FactKind(enum.StrEnum):
    """What a fact of the line says."""

    CALLED = "called"
    ADMITTED = "admitted"
    LEFT = "left"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Fact:
    """Someone was called, admitted, left, or has bought; `fact_id` never changes and is never used again."""

    fact_id: str
    kind: FactKind
    user_id: int
    time: datetime
    lane: int
    score: int
    # CALLED: end of the claim window. ADMITTED, and places that ended while they were: end of the admission.
    until: datetime | None = None
    calls: int = 0
    # Places that ended while they were ADMITTED: since when they were.
    admitted: datetime | None = None


class PolicyChange(NamedTuple):
    """What an operator changed."""

    before: Policy
    after: Policy
    # Higher than that of every change before.
    version: int


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
