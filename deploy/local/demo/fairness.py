"""Whether the line was fair, judged from what each person was told: order, draw, and forecasts."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from deploy.local.demo.buyer import Buyer
from deploy.local.demo.waiting import Seen

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """How one lane went."""

    people: int
    called: int
    drawn: int
    """How many of them took part in the draw."""
    mean_wait_seconds: float
    """Of those who were called: from joining, or from the opening for who came before."""


@dataclass(frozen=True, slots=True)
class Forecasts:
    """How many waits ended inside of the range that was told first; eight in ten are promised."""

    waits: int
    inside: int

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None when nobody waited."""
        return round(self.inside / self.waits, 3) if self.waits else None


def queue_jumpers(buyers: Iterable[Buyer]) -> int:
    """People who were called after somebody with a higher score in their lane, or not at all while such a one was.

    The score is the drawn number, or the time of joining for who came after the opening; every drawn number stands
    before every time. Called together counts as in order: one run of admission calls many at one moment.
    """
    lanes = defaultdict[int, list[Seen]](list)
    for seen in _who_stayed(buyers):
        if seen.score and not seen.missed_unseen:
            lanes[seen.lane].append(seen)
    return sum(map(_overtaken, lanes.values()))


def _overtaken(lane: list[Seen]) -> int:
    overtaken, earliest_behind = 0, NEVER
    for seen in sorted(lane, key=lambda seen: seen.score, reverse=True):
        called = seen.called_at or NEVER
        overtaken += called > earliest_behind
        earliest_behind = min(earliest_behind, called)
    return overtaken


def _who_stayed(buyers: Iterable[Buyer]) -> list[Seen]:
    return [buyer.waiting.seen for buyer in buyers if buyer.waiting.seen.joined_at]


def lane_summaries(buyers: Iterable[Buyer], names: dict[int, str], opened: datetime) -> dict[str, LaneSummary]:
    """How each lane went, by its name."""
    return {
        name: _summary([seen for seen in _who_stayed(buyers) if seen.lane == lane], opened)
        for lane, name in names.items()
    }


def _summary(lane: list[Seen], opened: datetime) -> LaneSummary:
    waits = [
        (seen.called_at - max(opened, datetime.fromisoformat(seen.joined_at))).total_seconds()
        for seen in lane
        if seen.called_at
    ]
    mean = round(sum(waits) / len(waits), 1) if waits else 0.0
    return LaneSummary(len(lane), len(waits), sum(seen.entered_draw for seen in lane), mean)


def forecasts(buyers: Iterable[Buyer]) -> Forecasts:
    """How the first forecasts that people were told after the opening came true, for those who were called."""
    told = [(seen.told, seen.called_at) for seen in _who_stayed(buyers)]
    holds = [forecast.holds(called) for forecast, called in told if forecast and called]
    return Forecasts(len(holds), sum(holds))
