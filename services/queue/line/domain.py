"""The rules of a line: what a place is, how it is told, how the line is run, and what can be refused."""

import enum
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

# With jitter of a fifth either way: one to one and a half seconds at the front, never more than ten at the back.
_POLL_FRONT: Final = timedelta(seconds=1.25)
_POLL_CALLED: Final = timedelta(seconds=2)
_POLL_BACK: Final = timedelta(seconds=8)
# Someone whose turn is a minute and a half away asks every eight seconds: a tenth of the wait is soon enough.
_POLL_SHARE_OF_WAIT: Final = 0.1

# The 90th percentile of the standard normal distribution.
_Z90: Final = 1.2816
# How far the rate of the next minutes may fall below the observed one; to be fitted when the accuracy is measured.
_RATE_SLACK: Final = 1.3
_SLOWEST_RATE: Final = 0.001
_LONGEST_ETA: Final = timedelta(days=1)


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
        return self in {PlaceState.DONE, PlaceState.EXPIRED, PlaceState.LEFT}


class SaleState(enum.Enum):
    """How a sale goes, as seen from the line."""

    SCHEDULED = enum.auto()
    OPEN = enum.auto()
    HELD = enum.auto()
    SOLD_OUT = enum.auto()
    CLOSED = enum.auto()

    @property
    def is_over(self) -> bool:
        """Whether nobody will be called any more."""
        return self in {SaleState.SOLD_OUT, SaleState.CLOSED}


class Mode(enum.StrEnum):
    """What a line does."""

    OPEN = "OPEN"
    HOLD = "HOLD"
    DRAIN = "DRAIN"


class Refusal(Exception):
    """Something that the line does not do. `reason` is a name of the catalogue, the text is told to the caller."""

    reason: str
    text: str

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.text)


class EventNotFound(Refusal):
    """There is no such sale event."""

    reason, text = "EVENT_NOT_FOUND", "there is no such event"


class SaleClosed(Refusal):
    """Nobody may join: the sale is over, or an operator lets the line run empty."""

    reason, text = "SALE_CLOSED", "nobody can join this line any more"


class SoldOut(Refusal):
    """Every seat is sold."""

    reason, text = "SOLD_OUT", "every seat is sold"


class PlaceNotFound(Refusal):
    """The caller has no place in this line."""

    reason, text = "PLACE_NOT_FOUND", "join the line first"


class PlaceNotReady(Refusal):
    """The place is not called, or its claim window has closed."""

    reason, text = "PLACE_NOT_READY", "this place is not called, or was not claimed in time"


class PlaceInvalid(Refusal):
    """A signed place that is forged, or of another account or event."""

    reason, text = "PLACE_INVALID", "the signed place is not one of ours"


class PolicyOutOfRange(Exception):
    """A rule of the line has a value that it cannot have."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, low: float, high: float) -> None:
        super().__init__(f"{field} must be between {low:g} and {high:g}")
        self.metadata = {"field": field}


# What a script can answer instead of doing its work.
REFUSALS: Final[dict[str, type[Refusal]]] = {
    error.reason: error for error in (SaleClosed, SoldOut, PlaceNotFound, PlaceNotReady)
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a line is run. Raises PolicyOutOfRange."""

    mode: Mode
    rate_per_second: float
    inside_cap: int
    claim_window: timedelta
    admission: timedelta

    def __post_init__(self) -> None:
        _within("rate_per_second", self.rate_per_second, 0.1, 10_000)
        _within("inside_cap", self.inside_cap, 1, 1_000_000)
        _within("claim_window_seconds", self.claim_window.total_seconds(), 10, 3_600)
        # Ten minutes is the longest life of an admission token.
        _within("admission_seconds", self.admission.total_seconds(), 30, 600)


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN, too
        raise PolicyOutOfRange(field, low, high)


@dataclass(frozen=True, slots=True)
class Sale:
    """When people are called: from the opening, to the close."""

    open_time: datetime
    close_time: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """A line at one instant, `now` on Redis' clock."""

    now: datetime
    waiting: int
    mode: Mode
    # People called per second while people waited, weighted over the last minute; at first what the policy allows.
    rate_per_second: float
    sold_out: bool
    # None until the sale reported once.
    seats_left: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the line knows about one person."""

    state: PlaceState
    # Time of joining in µs of Redis' clock: the order of the line.
    score: int
    # People in front; 0 for who no longer waits.
    ahead: int = 0
    # READY: end of the claim window. ADMITTED: end of the admission.
    until: datetime | None = None

    def at(self, now: datetime) -> PlaceState:
        """The state at `now`: what has run out is EXPIRED even before a tick of admission has come by."""
        return PlaceState.EXPIRED if self.until is not None and self.until <= now else self.state


@dataclass(frozen=True, slots=True)
class Place:
    """A person's place, as it is told to them."""

    state: PlaceState
    position: int
    ahead: int
    total_waiting: int
    eta_p50: timedelta
    eta_p90: timedelta
    seats_left: int | None
    sale_state: SaleState
    score: int
    until: datetime | None

    @property
    def news(self) -> tuple[object, ...]:
        """What is worth a message: everything but the forecast, which moves all the time."""
        return self.state, self.position, self.total_waiting, self.seats_left, self.sale_state, self.until

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
    return SaleState.HELD if line.mode is Mode.HOLD else SaleState.OPEN


def tell(standing: Standing, line: Line, sale: Sale) -> Place:
    """The place of one person at the instant of `line`."""
    state, selling = standing.at(line.now), sale_state(line, sale)
    position = standing.ahead + 1 if state is PlaceState.WAITING else 0
    opens_in = max(sale.open_time - line.now, timedelta())
    p50, p90 = (timedelta(), timedelta()) if selling.is_over else eta(position, line.rate_per_second, opens_in)
    return Place(
        state=state,
        position=position,
        ahead=standing.ahead,
        total_waiting=line.waiting,
        eta_p50=p50,
        eta_p90=p90,
        seats_left=line.seats_left,
        sale_state=selling,
        score=standing.score,
        until=standing.until if state in {PlaceState.READY, PlaceState.ADMITTED} else None,
    )


def eta(position: int, rate_per_second: float, opens_in: timedelta) -> tuple[timedelta, timedelta]:
    """Median and 90th percentile of the time until `position` is called; nothing for position 0.

    Calls are taken as a Poisson process of the observed rate, which itself may fall by a quarter: the first makes the
    range wide at the front, the second at the back. An operator's hold cannot be foreseen and is not in it.
    """
    if position <= 0:
        return timedelta(), timedelta()
    rate = max(rate_per_second, _SLOWEST_RATE)
    likely, unlucky = position / rate, (position * _RATE_SLACK + _Z90 * math.sqrt(position)) / rate
    p50, p90 = (min(opens_in + _seconds(each), _LONGEST_ETA) for each in (likely, unlucky))
    return p50, p90


def _seconds(value: float) -> timedelta:
    return timedelta(seconds=min(value, _LONGEST_ETA.total_seconds()))


def poll_after(place: Place, jitter: float) -> timedelta:
    """When to ask again: soon at the front, later at the back. `jitter`, in [0, 1), spreads those who came together."""
    if place.state is PlaceState.READY:
        base = _POLL_CALLED
    elif place.state is PlaceState.WAITING and not place.sale_state.is_over:
        base = min(max(place.eta_p50 * _POLL_SHARE_OF_WAIT, _POLL_FRONT), _POLL_BACK)
    else:
        base = _POLL_BACK
    return base * (0.8 + 0.4 * jitter)
