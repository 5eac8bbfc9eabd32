"""What the scripts of the line answer, as values of the domain."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from services.queue.line.domain import GENERAL, Lane, LanesInvalid, Line, Mode, PlaceState, Standing
from services.queue.line.refusals import (
    Drawing,
    Fenced,
    NotBuilt,
    PlaceNotFound,
    PlaceNotReady,
    SaleClosed,
    SoldOut,
)
from services.queue.line.times import from_ms
from services.queue.line.transitions import Fact, FactKind, Lapsed, Tick, out_of_order

T = TypeVar("T")

# What a script can answer instead of doing its work.
REFUSALS: Final[Mapping[str, type[Exception]]] = {
    "SALE_CLOSED": SaleClosed,
    "SOLD_OUT": SoldOut,
    "PLACE_NOT_FOUND": PlaceNotFound,
    "PLACE_NOT_READY": PlaceNotReady,
    "NOT_BUILT": NotBuilt,
    "DRAWING": Drawing,
    "FENCED": Fenced,
    "LANE_IN_USE": LanesInvalid,
}

# A line and the places of some people in it.
Reading = tuple[Line, dict[int, Standing | None]]

# What read tells before the places.
_HEADER: Final = 9
_LANES: Final = 4
# As places are told: who waits in a lane, who is in a draw that is not held, and who missed a call.
_IN_LANE, _IN_DRAW, _MISSED = "W", "Q", "M"


def settled(answer: Any, unpack: Callable[[Any], T]) -> T | Exception:
    """One answer of a batch: unpacked, or what went wrong, for the one whom it concerns."""
    try:
        return unpack(value(answer))
    except Exception as error:  # noqa: BLE001 - handed on
        return error


def value(answer: Any) -> Any:
    """An answer of a pipeline; raises it where it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def accepted(answer: list[Any]) -> list[Any]:
    """What a script answered beside its 1. Raises the refusal that it answered beside its 0."""
    done, *rest = answer
    if not done:
        raise REFUSALS[rest[0].decode()]
    return rest


def flag(answer: list[Any]) -> int:
    """The one figure that a script answered. Raises the refusal that it answered instead."""
    (told,) = accepted(answer)
    return int(told)


def added(one: int | Exception, other: int | Exception) -> int | Exception:
    """Both figures of an event together; without one of them there is no telling."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return one if isinstance(one, Exception) else other
    return one + other


def reading(answer: list[Any], users: Sequence[int]) -> Reading:
    """The answer of read for these users. Raises NotBuilt."""
    if not answer[0]:
        accepted(answer)
    return _line(answer), dict(zip(users, map(_standing, answer[_HEADER:]), strict=True))


def _line(answer: Sequence[Any]) -> Line:
    _, now_ms, figures, *waiting, missed, entrants = answer[:_HEADER]
    built, restoring_ms, rate, mode, lanes, sold_out, seats_left, closed_ms, held_ms, key, entered = figures
    return Line(
        now=from_ms(now_ms),
        waiting=tuple(waiting),
        mode=Mode(mode.decode()),
        rate_per_second=float(rate),
        sold_out=sold_out == b"1",
        seats_left=int(seats_left) if seats_left else None,
        lanes=lanes_of(lanes),
        entrants=entrants,
        entered=int(entered or 0),
        missed=missed,
        is_closed=bool(closed_ms),
        is_held=bool(held_ms),
        is_restoring=now_ms < int(restoring_ms or 0),
        incarnation=int(built),
        draw_key=key if held_ms else b"",
    )


@lru_cache(1_000)
def lanes_of(text: bytes) -> tuple[Lane, ...]:
    """The lanes of a policy, from its hash; "" where no operator set any."""
    if not text:
        return GENERAL
    return tuple(Lane(lane["lane"], lane["name"], lane["weight"]) for lane in json.loads(text))


def lanes_text(lanes: Sequence[Lane]) -> str:
    """Lanes as the hash of a policy holds them."""
    return json.dumps([{"lane": lane.number, "name": lane.name, "weight": lane.weight} for lane in lanes])


def _standing(place: bytes) -> Standing | None:
    if not place:
        return None
    letter, score, until_ms, _, calls, lane, ahead, join_us = place.decode().split(":")
    if letter in {_IN_LANE, _IN_DRAW}:
        waits = PlaceState.WAITING
        return Standing(waits, int(score), int(ahead), None, int(lane), int(join_us), in_draw=letter == _IN_DRAW)
    until = from_ms(until_ms) if until_ms != "0" else None
    if letter == _MISSED:
        return Standing(PlaceState.WAITING, int(score), 0, None, int(lane), int(join_us), call_again=until)
    return Standing(PlaceState(letter), int(score), 0, until, int(lane), int(join_us), calls=int(calls))


def one_of(reading: Reading | Exception, user_id: int) -> tuple[Line, Standing | None] | Exception:
    """One person's part of the reading of a line, or why there is none."""
    if isinstance(reading, Exception):
        return reading
    line, standings = reading
    return line, standings[user_id]


def together(one: Reading | Exception, other: Reading | Exception) -> Reading | Exception:
    """Two parts of the line of an event; without one of them there is no telling."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return one if isinstance(one, Exception) else other
    return one[0], {**one[1], **other[1]}


def lapsed(prolonged: int, answer: list[int]) -> Lapsed:
    """The answers of prolong and of lapse."""
    expired, missed, returned, in_draw = answer
    return Lapsed(expired, missed, returned, in_draw, prolonged)


def tick(answer: list[Any], lapsed: Lapsed) -> Tick:
    """The answer of admit. Raises NotBuilt, Fenced."""
    waiting, missed, ready, admitted, unpublished, over, needs_draw, restoring, calling, cap, *rest = accepted(answer)
    fronts, calls = rest[:_LANES], [tuple(map(int, call.split(b":"))) for call in rest[_LANES:]]
    inside = ready + admitted
    # A cap that was lowered leaves more inside than it allows; one too many is only who was called into that.
    beyond = max(0, min(len(calls), inside - cap))
    passed_over = 0
    for lane, front in enumerate(fronts):
        scores = [score for called_from, score in calls if called_from == lane]
        passed_over += out_of_order(scores, int(float(front)) if front else None)
    return Tick(
        called=len(calls),
        lapsed=lapsed,
        waiting=waiting,
        missed=missed,
        inside=inside,
        unpublished=unpublished,
        over=bool(over),
        needs_draw=bool(needs_draw),
        restoring=bool(restoring),
        calling=bool(calling),
        jumpers=max(beyond, passed_over),
    )


def fact(event_id: int, entry_id: str, fields: Mapping[bytes, bytes]) -> Fact:
    """One entry of the outbox of a line."""
    until_ms, admitted_ms = fields.get(b"until_ms"), fields.get(b"admitted_ms")
    return Fact(
        fact_id=fact_id(event_id, entry_id),
        kind=FactKind(fields[b"kind"].decode()),
        user_id=int(fields[b"user_id"]),
        time=from_ms(fields[b"at_ms"]),
        lane=int(fields[b"lane"]),
        score=int(fields[b"score"]),
        until=from_ms(until_ms) if until_ms else None,
        calls=int(fields.get(b"calls", 0)),
        admitted=from_ms(admitted_ms) if admitted_ms else None,
    )


def fact_id(event_id: int, entry_id: str) -> str:
    """Holds the entry's id, which only grows, also from one life of a line to the next: none is used again."""
    return f"{event_id:x}-{entry_id}"
