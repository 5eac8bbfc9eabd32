"""What the facts of a line come to, in whatever order and however often they are read: standard library only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.queue.line.domain import PlaceState

LANES: Final = 4
# Who misses a first call is called once more; who misses this one has lost the place.
_LAST_CALL: Final = 2


class PastFact(NamedTuple):
    """What happened to the place of someone: it was called, admitted, given up, or its owner has bought."""

    # Where it stands among the facts of its line. Not its time: clocks are set back.
    order: tuple[int, int]
    user_id: int
    # READY, ADMITTED, LEFT or DONE: what the place became.
    state: PlaceState
    lane: int
    score: int
    # When it happened, and until when it holds, ms on Redis' clock; 0: for good.
    since_ms: int
    until_ms: int = 0
    calls: int = 1


class SpentPlace(NamedTuple):
    """Someone who left the line, and the record of it as the line keeps it."""

    user_id: int
    lane: int
    # As `places` of the line has it: state, score, until ms, since ms and calls, with colons between them.
    record: str


@dataclass(slots=True)
class History:
    """The part of a line that was called. Adding a fact twice, or two facts in either order, changes nothing."""

    latest: dict[int, PastFact] = field(default_factory=dict)
    # The highest score that was called, by lane.
    watermarks: list[int] = field(default_factory=lambda: [0] * LANES)
    # Everyone who was ever called: what odds rest on.
    called: set[int] = field(default_factory=set)

    def add(self, fact: PastFact) -> None:
        """Takes one more fact."""
        if fact.state is not PlaceState.LEFT and 0 <= fact.lane < LANES:
            self.watermarks[fact.lane] = max(self.watermarks[fact.lane], fact.score)
            self.called.add(fact.user_id)
        known = self.latest.get(fact.user_id)
        if known is None or fact.order > known.order:
            self.latest[fact.user_id] = fact

    @property
    def last(self) -> tuple[int, int]:
        """The order of the newest fact; (0, 0) where there is none."""
        return max((fact.order for fact in self.latest.values()), default=(0, 0))

    @property
    def last_score(self) -> int:
        """No place of the line is known to stand behind this one."""
        return max(self.watermarks)

    def places(self, now_ms: int) -> Iterator[SpentPlace]:
        """Everyone who left the line, as they stand at `now_ms`."""
        for fact in self.latest.values():
            yield SpentPlace(fact.user_id, fact.lane, _record(fact, now_ms))


def _record(fact: PastFact, now_ms: int) -> str:
    state, until_ms, since_ms = fact.state, fact.until_ms, fact.since_ms
    # A first call that was missed stays a call: the next tick finds that it ran out, and grants the second chance.
    missed_once = state is PlaceState.READY and fact.calls < _LAST_CALL
    if until_ms and until_ms <= now_ms and not missed_once:
        state, until_ms, since_ms = PlaceState.EXPIRED, 0, until_ms
    return f"{state.value}:{fact.score}:{until_ms}:{since_ms}:{fact.calls}"
