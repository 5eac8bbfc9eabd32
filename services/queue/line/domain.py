"""The rules of a line: what a place is, and how it is told. Also the door to how a line is run, and what it refuses."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from services.queue.line.policy import GENERAL, Lane, LanesInvalid, Mode, Policy, PolicyOutOfRange
from services.queue.line.refusals import (
    Drawing,
    EventNotFound,
    Fenced,
    LanePassInvalid,
    NotBuilt,
    PlaceInvalid,
    PlaceNotFound,
    PlaceNotReady,
    Refusal,
    SaleClosed,
    SoldOut,
)

__all__ = [
    "GENERAL",
    "NO_WAIT",
    "Drawing",
    "EventNotFound",
    "Expect",
    "Fenced",
    "Lane",
    "LanePassInvalid",
    "LanesInvalid",
    "Line",
    "Mode",
    "NotBuilt",
    "Outlook",
    "Place",
    "PlaceInvalid",
    "PlaceNotFound",
    "PlaceNotReady",
    "PlaceState",
    "Policy",
    "PolicyOutOfRange",
    "Refusal",
    "Sale",
    "SaleClosed",
    "SaleState",
    "SoldOut",
    "Standing",
    "poll_after",
    "sale_state",
    "tell",
    "unforeseen",
]

# With jitter of a fifth either way: one to one and a half seconds at the front, never more than ten at the back.
_POLL_FRONT: Final = timedelta(seconds=1.25)
_POLL_CALLED: Final = timedelta(seconds=2)
_POLL_BACK: Final = timedelta(seconds=8)
# Someone whose turn is a minute and a half away asks every eight seconds: a tenth of the wait is soon enough.
_POLL_SHARE_OF_WAIT: Final = 0.1


class PlaceState(enum.Enum):
    """Where a place is in its life: WAITING → READY → ADMITTED → DONE | EXPIRED | LEFT. Values are kept in Redis."""

    WAITING = "W"
    READY = "R"
    ADMITTED = "A"
    DONE = "D"
    EXPIRED = "E"
    LEFT = "L"

    @property
    def is_final(self) -> bool:
        """Whether the place is used up."""
        return self is PlaceState.DONE or self is PlaceState.EXPIRED or self is PlaceState.LEFT


class SaleState(enum.Enum):
    """How a sale goes, as seen from the line."""

    SCHEDULED = enum.auto()
    DRAWING = enum.auto()
    RESTORING = enum.auto()
    OPEN = enum.auto()
    HELD = enum.auto()
    SOLD_OUT = enum.auto()
    CLOSED = enum.auto()

    @property
    def is_over(self) -> bool:
        """Whether nobody will be called any more."""
        return self is SaleState.SOLD_OUT or self is SaleState.CLOSED


@dataclass(frozen=True, slots=True)
class Sale:
    """When people are called: from the opening, to the close."""

    open_time: datetime
    close_time: datetime


class Outlook(NamedTuple):
    """Seconds until a place is called: one in ten is by the first, half are by the second, nine by the third."""

    p10: float
    p50: float
    p90: float
    # The chance that seats are left then; None where it is not known.
    odds: float | None = None


NO_WAIT: Final = Outlook(0.0, 0.0, 0.0)

# What is told at a position of a lane, from 1 on; 0 stands for everyone in the draw.
Expect = Callable[[int, int], Outlook]


def unforeseen(_lane: int, _position: int) -> Outlook:
    """What is told of a wait while nothing is known of it."""
    return NO_WAIT


@dataclass(frozen=True, slots=True)
class Line:
    """A line at one instant, `now` on Redis' clock."""

    now: datetime
    # People in each of the four lanes.
    waiting: tuple[int, ...]
    mode: Mode
    # People called per second while people waited, weighted over the last minute; at first what the policy allows.
    rate_per_second: float
    sold_out: bool
    # None until the sale reported once.
    seats_left: int | None
    lanes: tuple[Lane, ...] = GENERAL
    # Who takes part in the draw, and how many of them have a place already.
    entrants: int = 0
    entered: int = 0
    # Who missed a call and is called again later.
    missed: int = 0
    # The list of the draw is closed; the draw is held, and everyone in it has a place.
    is_closed: bool = True
    is_held: bool = True
    # People come back to a line that was lost.
    is_restoring: bool = False
    # Which life of the line this is; another one than before: it was lost.
    incarnation: int = 0
    # What gave everyone in the draw their place; empty until it is held.
    draw_key: bytes = b""

    @property
    def total_waiting(self) -> int:
        """People in line, in all lanes, or in the draw."""
        in_draw = 0 if self.is_held else max(0, self.entrants - self.entered)
        return sum(self.waiting) + self.missed + in_draw

    def lane(self, number: int) -> Lane:
        """How a lane is run. One that is not in use, but has people, is called from as if it were."""
        for lane in self.lanes:
            if lane.number == number:
                return lane
        return Lane(number, str(number), 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the line knows about one person."""

    state: PlaceState
    # The order of the lane: the time of joining in µs of Redis' clock, or what was drawn; 0 while the draw is not held.
    score: int
    # People in front; 0 for who no longer waits, and while the draw is not held.
    ahead: int = 0
    # READY: end of the claim window. ADMITTED: end of the admission.
    until: datetime | None = None
    lane: int = 0
    # Time of joining in µs of Redis' clock; 0 where it is not known any more.
    join_us: int = 0
    in_draw: bool = False
    # WAITING after a missed call: called once more then.
    call_again: datetime | None = None
    # How often the place was called.
    calls: int = 0

    def at(self, now: datetime) -> PlaceState:
        """The state at `now`: what has run out is EXPIRED, or waits again, even before a tick has come by."""
        if self.until is None or now < self.until:
            return self.state
        return PlaceState.WAITING if self.state is PlaceState.READY and self.calls == 1 else PlaceState.EXPIRED


@dataclass(frozen=True, slots=True)
class Place:
    """A person's place, as it is told to them."""

    state: PlaceState
    position: int
    ahead: int
    total_waiting: int
    outlook: Outlook
    seats_left: int | None
    sale_state: SaleState
    score: int
    until: datetime | None
    lane: Lane = GENERAL[0]
    join_us: int = 0
    in_draw: bool = False
    call_again: datetime | None = None

    @property
    def news(self) -> tuple[object, ...]:
        """What any change of is worth a message: everything but the forecast, which moves all the time."""
        return (
            self.state,
            self.position,
            self.total_waiting,
            self.seats_left,
            self.sale_state,
            self.until,
            self.lane,
            self.score,
            self.in_draw,
            self.call_again,
        )

    @property
    def is_last_word(self) -> bool:
        """Whether nothing more will be told: the place is used up, or nobody who waits will get further."""
        return self.state.is_final or (self.sale_state.is_over and self.state is not PlaceState.ADMITTED)


def sale_state(line: Line, sale: Sale) -> SaleState:
    """How the sale goes at the instant of `line`."""
    if line.sold_out:
        return SaleState.SOLD_OUT
    if line.now >= sale.close_time:
        return SaleState.CLOSED
    if line.now < sale.open_time:
        return SaleState.SCHEDULED
    if line.is_restoring:
        return SaleState.RESTORING
    if not line.is_held:
        return SaleState.DRAWING
    return SaleState.HELD if line.mode is Mode.HOLD else SaleState.OPEN


def tell(standing: Standing, line: Line, sale: Sale, expect: Expect = unforeseen) -> Place:
    """The place of one person at the instant of `line`. Until the draw is held, nobody learns anything of an order."""
    state, selling = standing.at(line.now), sale_state(line, sale)
    waits = state is PlaceState.WAITING
    ahead = standing.ahead if waits and line.is_held else 0
    return Place(
        state=state,
        position=ahead + 1 if waits and line.is_held else 0,
        ahead=ahead,
        total_waiting=line.total_waiting,
        outlook=_outlook(standing, line, expect) if waits and not selling.is_over else NO_WAIT,
        seats_left=line.seats_left,
        sale_state=selling,
        score=standing.score,
        until=standing.until if state is PlaceState.READY or state is PlaceState.ADMITTED else None,
        lane=line.lane(standing.lane),
        join_us=standing.join_us,
        in_draw=standing.in_draw,
        call_again=standing.call_again if waits else None,
    )


def _outlook(standing: Standing, line: Line, expect: Expect) -> Outlook:
    if standing.call_again is not None:
        again_in = max((standing.call_again - line.now).total_seconds(), 0.0)
        return Outlook(again_in, again_in, again_in)
    return expect(standing.lane, standing.ahead + 1 if line.is_held else 0)


def poll_after(place: Place, jitter: float) -> timedelta:
    """When to ask again: soon at the front, later at the back. `jitter`, in [0, 1), spreads those who came together."""
    if place.state is PlaceState.READY:
        base = _POLL_CALLED
    elif place.state is PlaceState.WAITING and not place.sale_state.is_over:
        base = min(max(timedelta(seconds=place.outlook.p50 * _POLL_SHARE_OF_WAIT), _POLL_FRONT), _POLL_BACK)
    else:
        base = _POLL_BACK
    return base * (0.8 + 0.4 * jitter)
