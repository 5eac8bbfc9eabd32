"""What is known of people's places, and when queue must be asked again."""

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from boxoffice.queue.v1 import queue_service_pb2 as pb

from edge.line.digest import LineView
from edge.transcode.dump import timestamp
from services.common import draw
from services.common.place_in_digest import FRONT, Expected, Told, position_of, told_at

# People whose last answer is kept, about half a kilobyte each. Of more, some cost a call for each look, as without us.
_REMEMBERED: Final = 200_000

_WAITING: Final = pb.Place.STATE_WAITING
_FINAL: Final = frozenset({pb.Place.STATE_DONE, pb.Place.STATE_EXPIRED, pb.Place.STATE_LEFT})

# Until when something lasts, or when something happens.
_MOMENTS: Final = ("claim_expire_time", "admission_expire_time", "call_again_time")

# Why queue is asked, and how old its last answer must be for that. Ticks come a little early, too.
UNKNOWN: Final = "unknown"
LOST: Final = "lost"
OWN_CALL: Final = "own_call"
CHANGED: Final = "changed"
CALLED: Final = "called"
MISSING: Final = "missing"
INSIDE: Final = "inside"
_AGES: Final = {LOST: 0.0, OWN_CALL: 0.0, CHANGED: 0.9, CALLED: 0.9, MISSING: 0.9, INSIDE: 1.9}


@dataclass(slots=True, eq=False, weakref_slot=True)
class Known:
    """The last answer of queue about one person, taken apart where it is needed often."""

    event_id: int
    user_id: int
    # A serialized pb.Place: a message would keep the whole batch alive that it came with.
    answer: bytes = b""
    state: int = 0
    lane: int = 0
    score: int = 0
    in_draw: bool = False
    # Missed a call, and is called once more.
    is_called_again: bool = False
    # Has a time of joining and no other: such a place can be told by a template.
    is_simple: bool = False
    # As JSON.
    join_time: bytes = b""
    # What the answer says, and what was told last.
    answered_position: int = 0
    position: int = 0
    # When queue was asked, on the clock of the event loop, and in which era.
    asked: float = 0.0
    era: int = -1
    # Changes when something in the answer is news.
    version: int = 0
    # Of `poll_after_ms`: spreads those who came together.
    jitter: float = 1.0
    # How often this person did something here that makes older answers worthless, and whether none has come since.
    calls: int = 0
    is_outdated: bool = False
    # Whether a question is under way, and how many streams show it.
    is_asked: bool = False
    watchers: int = 0

    @property
    def is_final(self) -> bool:
        """Whether the place is used up."""
        return self.state in _FINAL

    def expected(self) -> Expected:
        """What the answer lets its owner expect."""
        place = pb.Place.FromString(self.answer)
        odds = place.odds if place.HasField("odds") else None
        return Expected(self.asked + place.eta_p50_seconds, self.asked + place.eta_p90_seconds, odds)

    def learn(self, place: pb.Place, *, asked: float, era: int) -> None:
        """Takes an answer to what was asked at `asked`, in `era`."""
        if (self.lane, self.score, self.era) != (place.lane, place.score, era) or self.position == 0:
            self.position = place.position
        self._note_news(place)
        self.state, self.lane, self.score, self.in_draw = place.state, place.lane, place.score, place.in_draw
        self.is_called_again = place.HasField("call_again_time")
        self.is_simple = place.HasField("join_time") and not _has_moment(place)
        # Not by orjson, whose results keep some kilobytes each for as long as they live.
        self.join_time = b'"%b"' % timestamp(place.join_time).encode()
        self.answered_position = place.position
        self.answer = place.SerializeToString()
        self.asked, self.era, self.is_outdated = asked, era, False
        self.jitter = random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing

    def _note_news(self, place: pb.Place) -> None:
        before = pb.Place.FromString(self.answer)
        if _own(before) != _own(place):
            self.version += 1

    def draw(self, draw_key: bytes) -> None:
        """Takes the score that the draw has given to who took part in it."""
        place = pb.Place.FromString(self.answer)
        place.score, place.in_draw = draw.score(draw_key, self.user_id), False
        self.score, self.in_draw, self.position = place.score, False, 0
        self.answer = place.SerializeToString()
        self.version += 1


def _has_moment(place: Any) -> bool:
    return any(place.HasField(name) for name in _MOMENTS)


def _own(place: pb.Place) -> tuple[object, ...]:
    """What is news for one person, the position apart."""
    moments = (getattr(place, name) for name in _MOMENTS)
    return place.state, place.lane, place.score, place.in_draw, *((each.seconds, each.nanos) for each in moments)


class Standing(NamedTuple):
    """Where someone stands, as far as a digest can tell."""

    # Why queue must be asked, unless that has just been done; "": it need not be.
    question: str
    position: int
    # What the digest forecasts for this position, if anything; else queue's answer stands.
    forecast: Told | None


def stand(known: Known, view: LineView) -> Standing:
    """Where someone stands. What is told never moves back by what interpolation may be off."""
    question = _doubt(known, view)
    if question or not view.is_built:
        return Standing(question, known.answered_position, None)
    if not known.in_draw:
        return _in_lane(known, view)
    if not view.draw_key:
        return Standing("", 0, view.in_draw)
    known.draw(view.draw_key)
    return _in_lane(known, view)


def _doubt(known: Known, view: LineView) -> str:
    """Why the last answer may not hold any more, if something says so."""
    if known.is_outdated:
        return OWN_CALL
    if known.era != view.era:
        return LOST
    if known.state != _WAITING:
        return INSIDE
    return CHANGED if known.user_id in view.changed else ""


def _in_lane(known: Known, view: LineView) -> Standing:
    lane = view.lanes.get(known.lane)
    if lane is None:
        return Standing(MISSING, known.answered_position, None)
    if known.score <= lane.watermark or known.is_called_again:
        return Standing(CALLED, known.answered_position, None)
    position = position_of(known.score, lane.scores)
    if position is None:
        return Standing(MISSING, known.answered_position, None)
    if position > lane.scores.waiting:
        # Came after the digest was taken, as did others in front, whom queue has counted.
        position = max(position, known.answered_position)
    if position > known.position > FRONT and position - known.position <= lane.noise:
        position = known.position
    known.position = position
    return Standing("", position, told_at(position, lane.forecast) if lane.forecast is not None else None)


def is_due(question: str, known: Known, now: float) -> bool:
    """Whether queue must be asked now: there is a question, and the last answer is too old to answer it."""
    return question != "" and now - known.asked >= _AGES[question]


class KnownPlaces:
    """What this process knows, the latest of it."""

    def __init__(self, capacity: int = _REMEMBERED) -> None:
        self._capacity = capacity
        self._places: OrderedDict[tuple[int, int], Known] = OrderedDict()
        # Who is being asked for, or followed, without being kept. Of one person there is one object, lest what they do
        # meanwhile is noted in another one than the answer.
        self._others: WeakValueDictionary[tuple[int, int], Known] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, event_id: int, user_id: int) -> Known | None:
        """What is known of a person, if anything."""
        key = event_id, user_id
        known = self._places.get(key)
        if known is not None:
            self._places.move_to_end(key)
        return known

    def find_or_begin(self, event_id: int, user_id: int) -> Known:
        """The same, or room for what will be known: kept only from `keep` on, since anybody can ask for anything."""
        known = self.find(event_id, user_id) or self._others.get((event_id, user_id))
        if known is None:
            known = self._others[event_id, user_id] = Known(event_id, user_id)
        return known

    def keep(self, known: Known) -> None:
        """Remembers someone who has a place."""
        key = known.event_id, known.user_id
        if key not in self._places:
            self._others.pop(key, None)
            self._places[key] = known
            self._make_room()

    def note_call(self, event_id: int, user_id: int) -> None:
        """Makes older answers about someone worthless, also those that are under way."""
        known = self.find(event_id, user_id) or self._others.get((event_id, user_id))
        if known is not None:
            known.calls, known.is_outdated = known.calls + 1, True

    def forget(self, known: Known) -> None:
        """Drops someone who has no place."""
        key = known.event_id, known.user_id
        if self._places.get(key) is known:
            self._others[key] = self._places.pop(key)

    def _make_room(self) -> None:
        """Drops who was not seen for the longest time. Who watches stays: streams and polls share what is known."""
        for _ in range(len(self._places)):
            if len(self._places) <= self._capacity:
                return
            key, known = self._places.popitem(last=False)
            if known.watchers:
                self._places[key] = known
            else:
                self._others[key] = known
