"""What the scripts of the line answer, as values of the domain."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from services.queue.line.domain import REFUSALS, Line, Mode, PlaceState, Standing
from services.queue.line.transitions import Call, Joined, Tick, out_of_order

T = TypeVar("T")

# A line and the places of some people in it.
Reading = tuple[Line, dict[int, Standing | None]]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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


def joined(answer: list[Any]) -> Joined:
    """The answer of join. Raises SaleClosed, SoldOut."""
    score, fresh = accepted(answer)
    return Joined(int(score), fresh=bool(fresh))


def reading(answer: list[Any], users: Sequence[int]) -> Reading:
    """The answer of read for these users."""
    now_ms, waiting, mode, rate, sold_out, seats_left, *places = answer
    line = Line(
        now=from_ms(now_ms),
        waiting=waiting,
        mode=Mode(mode.decode()),
        rate_per_second=float(rate),
        sold_out=sold_out == b"1",
        seats_left=int(seats_left) if seats_left else None,
    )
    return line, {user: _standing(*place) for user, place in zip(users, places, strict=True)}


def _standing(rank: int, record: bytes) -> Standing | None:
    if rank >= 0:
        return Standing(PlaceState.WAITING, int(record), ahead=rank)
    if not record:
        return None
    state, score, until_ms, _ = record.decode().split(":")
    return Standing(PlaceState(state), int(score), until=from_ms(int(until_ms)) if int(until_ms) else None)


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


def tick(answer: list[Any]) -> Tick:
    """The answer of admit."""
    called, expired, waiting, ready, admitted, unpublished, over, cap, front, *scores = answer
    inside = ready + admitted
    # A cap that was lowered leaves more inside than it allows; one too many is only who was called into that.
    beyond = max(0, min(called, inside - cap))
    jumpers = max(beyond, out_of_order([int(score) for score in scores], int(front) if front else None))
    return Tick(called, expired, waiting, inside, unpublished, over=bool(over), jumpers=jumpers)


def call(event_id: int, entry_id: str, fields: Mapping[bytes, bytes]) -> Call:
    """One entry of the outbox of a line."""
    return Call(
        # The entry's id holds Redis' time, so that a line that was lost and rebuilt does not use one again.
        call_id=f"{event_id:x}-{entry_id}",
        user_id=int(fields[b"user_id"]),
        time=from_ms(fields[b"called_ms"]),
        claim_expire_time=from_ms(fields[b"until_ms"]),
    )


def from_ms(value: int | bytes) -> datetime:
    """A moment on Redis' clock, told in milliseconds."""
    return _EPOCH + timedelta(milliseconds=int(value))
