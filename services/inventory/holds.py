"""Holds of seats in Redis: the scripts of services/inventory/lua/ and their callers.

Redis makes the decision fast, MySQL makes it true. While Redis does not know an event (`counts` is absent: it is new,
or Redis lost its memory) every script refuses, and the event is rebuilt from MySQL before the next hold is granted.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common import metrics
from services.common.errors import Unavailable
from services.common.lua import Script
from services.inventory import records
from services.inventory.domain import (
    PAYMENT_PATIENCE,
    AdmissionInvalid,
    Booking,
    BookingState,
    IdempotencyKeyReused,
    PaymentState,
    Progress,
    SeatsTaken,
    TicketLimit,
    ticket_id,
)
from services.inventory.records import Block

# Long enough for the worker to come to it under load, short enough that a crash before the promise costs little.
PROVISIONAL: Final = timedelta(seconds=30)
# Redis must not free what MySQL still holds: it waits a little longer, for two clocks that differ.
GRACE: Final = timedelta(seconds=5)
# An Idempotency-Key answers repeats for a day.
KEEP: Final = timedelta(hours=24)
_PROMISE_KEEP: Final = 2 * KEEP
# More than a batch of the edge can let lapse at once, so that reaping keeps pace with holding.
_REAP_MOST: Final = 512
_REAP_EVERY: Final = timedelta(milliseconds=100)
# Records looked at in one command: what Redis reads in well below a millisecond.
_LOOK_MOST: Final = 500
_REBUILD_LOCK: Final = timedelta(seconds=20)
_REBUILD_WAIT: Final = timedelta(seconds=3)
_REBUILD_POLL: Final = timedelta(milliseconds=50)
_COUNTS: Final = ["version", "total", "left", "sold"]
_NOT_READY: Final = "the seats of this event are being rebuilt"

_LUA: Final = Path(__file__).parent / "lua"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """What a booking asks of Redis: the first of the blocks that is wholly free."""

    booking_id: str
    event_id: int
    user_id: int
    request_hash: bytes
    limit: int
    blocks: tuple[Block, ...]
    # What the admission token is known by; "" where nobody was let in by one.
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class HoldOutcome:
    """A booking that has its hold; `repeat` when it had it before, then in the state that it is in now."""

    booking: Booking
    repeat: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that MySQL knows of an event's seats: its size, and bookings that are live or ended within `KEEP`."""

    seats_total: int
    bookings: Iterable[Booking]


class Holds:
    """The seats of events in Redis. Calls travel as pipelines of scripts, each script atomic.

    Args:
        redis: where they are kept; one shard per event, by hash tag.
        read_snapshot: reads an event from MySQL; raises EventNotFound.
        pay_time: what a buyer is promised for paying.
        provisional: life of a hold until it is settled as RESERVED.
        reap_every: how often, at most, expired holds of one event are looked for.
    """

    def __init__(
        self,
        redis: Redis,
        read_snapshot: Callable[[int], Awaitable[Snapshot]],
        *,
        pay_time: timedelta = timedelta(minutes=10),
        provisional: timedelta = PROVISIONAL,
        reap_every: timedelta = _REAP_EVERY,
    ) -> None:
        self._redis = redis
        self._read_snapshot = read_snapshot
        self._pay_ms = _ms(pay_time)
        self._provisional_ms = _ms(provisional)
        self._reap_every = reap_every.total_seconds()
        self._reaped_at: dict[int, float] = {}
        self._rebuilding: dict[int, asyncio.Task[None]] = {}
        self._hold, self._reap, self._settle, self._release = map(_load, ("hold", "reap", "settle", "release"))
        self._rebuild, self._unlock, self._promise = map(_load, ("rebuild", "unlock", "promise"))

    async def aclose(self) -> None:
        """Gives up rebuilds that nobody waits for any more."""
        rebuilding = list(self._rebuilding.values())
        for task in rebuilding:
            task.cancel()
        await asyncio.gather(*rebuilding, return_exceptions=True)

    async def hold_many(self, requests: Sequence[HoldRequest]) -> list[HoldOutcome | Exception]:
        """Holds seats for each request, or tells why not, in order: one pipeline.

        SeatsTaken also means that no block of several was free. AdmissionInvalid: the admission was revoked.
        Unavailable: the event could not be rebuilt.
        """
        await self._reap_events({request.event_id for request in requests})
        outcomes = await self._try_hold(requests)
        lost = [at for at, outcome in enumerate(outcomes) if outcome is None]
        if lost:
            failures = await self._rebuild_events({requests[at].event_id for at in lost})
            again = await self._try_hold([requests[at] for at in lost])
            for at, outcome in zip(lost, again, strict=True):
                outcomes[at] = outcome or failures.get(requests[at].event_id) or Unavailable(_NOT_READY)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _try_hold(self, requests: Sequence[HoldRequest]) -> list[HoldOutcome | Exception | None]:
        calls = [(_keys(request.event_id, self._hold), self._hold_args(request)) for request in requests]
        answers = await self._hold.call_many(self._redis, calls)
        return [_outcome(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def _hold_args(self, request: HoldRequest) -> dict[str, Any]:
        return {
            "booking_id": request.booking_id,
            "user_id": request.user_id,
            "request_hash": request.request_hash,
            "limit": request.limit,
            "hold_ms": self._provisional_ms,
            "pay_ms": self._pay_ms,
            "token_id": request.token_id,
            "blocks": [block.packed() for block in request.blocks],
        }

    async def settle_many(self, bookings: Sequence[Booking]) -> None:
        """Mirrors what MySQL has committed: one pipeline, idempotent, safe when told late or out of order.

        RESERVED lives until its expire time plus GRACE, and PAYMENT_PATIENCE more while it is being paid; CONFIRMED
        for good; every other state frees the seats that this booking still owns. An event that Redis does not know is
        left to its rebuild, which reads MySQL anyway.
        """
        calls = [(_keys(booking.event_id, self._settle), _settlement(booking)) for booking in bookings]
        for answer in await self._settle.call_many(self._redis, calls):
            if isinstance(answer, Exception):
                raise answer

    async def remind_many(self, bookings: Sequence[Booking]) -> None:
        """The same as `settle_many` for bookings that Redis was most likely told: looks first, tells what differs."""
        for event_id, each in groupby(bookings, key=lambda booking: booking.event_id):
            for batch in _batches(list(each)):
                ids = [booking.booking_id for booking in batch]
                known: list[Any] = await self._redis.hmget(key(event_id, "holds"), ids)
                pairs = zip(batch, known, strict=True)
                await self.settle_many([booking for booking, record in pairs if _may_differ(booking, record)])

    async def promise(self, event_id: int, booking_ids: Sequence[str]) -> None:
        """Notes that bookings are in the event log, for the auditor: they must be decided soon."""
        args: dict[str, Any] = {"keep_ms": _ms(_PROMISE_KEEP), "bookings": booking_ids}
        await self._promise.call(self._redis, keys=_keys(event_id, self._promise), args=args)

    async def release_many(self, holds: Sequence[Booking]) -> None:
        """Ends holds that nobody was promised. A repeat of the request takes the same seats again if it can."""
        calls = [(_keys(hold.event_id, self._release), {"booking_id": hold.booking_id}) for hold in holds]
        await self._release.call_many(self._redis, calls)
        await self._reap_events({hold.event_id for hold in holds}, now=True)

    async def read_many(self, ids: Sequence[tuple[int, str]]) -> list[Booking | None]:
        """Reads records of (event id, booking id), None for those that Redis does not know: one pipeline."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for event_id, booking_id in ids:
                pipe.hget(key(event_id, "holds"), booking_id)
            found = await pipe.execute()
        return [
            records.unpack(event_id, booking_id, record) if record else None
            for (event_id, booking_id), record in zip(ids, found, strict=True)
        ]

    async def seats(self, event_id: int) -> tuple[Progress, bytes]:
        """The numbers of an event and its bitmap (most significant bit first, 1 = taken), of one moment.

        Raises EventNotFound; Unavailable when it could not be rebuilt.
        """
        await self._reap_events({event_id})
        found = await self._try_seats(event_id)
        if found is None:
            await self.ensure_ready(event_id)
            found = await self._try_seats(event_id)
        if found is None:
            raise Unavailable(_NOT_READY)
        return found

    async def _try_seats(self, event_id: int) -> tuple[Progress, bytes] | None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(key(event_id, "counts"), _COUNTS)
            pipe.get(key(event_id, "seats"))
            counts, bitmap = await pipe.execute()
        progress = _progress(counts)
        return None if progress is None else (progress, bitmap)

    async def progress(self, event_id: int) -> Progress | None:
        """How much of an event is left and sold; None while Redis does not know the event."""
        counts = await self._redis.hmget(key(event_id, "counts"), _COUNTS)
        return _progress(counts)

    async def reap(self, event_id: int) -> int:
        """Frees the seats of holds that are over, bounded in number; returns how many were due."""
        args = {"most": _REAP_MOST, "keep_ms": _ms(KEEP)}
        due: int = await self._reap.call(self._redis, keys=_keys(event_id, self._reap), args=args)
        return due

    async def _reap_events(self, event_ids: set[int], *, now: bool = False) -> None:
        clock = asyncio.get_running_loop().time()
        due = [e for e in event_ids if now or clock - self._reaped_at.get(e, -1e9) >= self._reap_every]
        self._reaped_at.update(dict.fromkeys(due, clock))
        results = await asyncio.gather(*(self.reap(event_id) for event_id in due), return_exceptions=True)
        for event_id, error in zip(due, results, strict=True):
            # Seats that are over stay taken a little longer; the event's own next command tells if Redis is away.
            if isinstance(error, Exception):
                _log.warning("not reaped", extra={"fields": {"event_id": event_id, "error": repr(error)}})

    async def ensure_ready(self, event_id: int) -> None:
        """Rebuilds the event unless Redis knows it. Concurrent callers share one rebuild.

        Raises EventNotFound; Unavailable when another process is still at it; what MySQL raised.
        """
        task = self._rebuilding.get(event_id)
        if task is None:
            task = asyncio.create_task(self._rebuild_unless_ready(event_id))
            self._rebuilding[event_id] = task
            task.add_done_callback(lambda _: self._rebuilding.pop(event_id, None))
        await asyncio.shield(task)

    async def _rebuild_events(self, event_ids: set[int]) -> Mapping[int, Exception]:
        results = await asyncio.gather(*(self.ensure_ready(e) for e in event_ids), return_exceptions=True)
        return {e: r for e, r in zip(event_ids, results, strict=True) if isinstance(r, Exception)}

    async def _rebuild_unless_ready(self, event_id: int) -> None:
        deadline = asyncio.get_running_loop().time() + _REBUILD_WAIT.total_seconds()
        while await self.progress(event_id) is None:
            if await self.rebuild(event_id):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(_NOT_READY)
            await asyncio.sleep(_REBUILD_POLL.total_seconds())

    async def rebuild(self, event_id: int) -> bool:
        """Replaces what Redis knows of the event by what MySQL knows, and opens it for holds.

        Atomic for everyone else. False when another process is at it. What is committed while MySQL is being read is
        not lost: `settle_many` leaves it beside the lock, and the script adds it.
        """
        lock, token = key(event_id, "rebuild"), secrets.token_hex(8)
        if not await self._redis.set(lock, token, nx=True, px=_ms(_REBUILD_LOCK)):
            return False
        await self._redis.delete(key(event_id, "missed"))
        try:
            snapshot = await self._read_snapshot(event_id)
            bookings = [field for booking in snapshot.bookings for field in _triple(booking)]
        except BaseException:
            # Not by its name alone: it may have ended meanwhile, and be somebody else's.
            await self._unlock.call(self._redis, keys=_keys(event_id, self._unlock), args={"token": token})
            raise
        args: dict[str, Any] = {"token": token, "total": snapshot.seats_total, "bookings": bookings}
        done: int = await self._rebuild.call(self._redis, keys=_keys(event_id, self._rebuild), args=args)
        metrics.REBUILDS.inc(done)
        return done == 1


def _load(name: str) -> Script:
    return Script.load(_LUA / f"{name}.lua")


def key(event_id: int, name: str) -> str:
    """The key of an event: all of its keys share a shard."""
    return f"event:{{{event_id}}}:{name}"


def _keys(event_id: int, script: Script) -> dict[str, str]:
    return {name: key(event_id, name) for name in script.header.keys}


def _progress(counts: Sequence[bytes | str | None]) -> Progress | None:
    numbers = [int(count) for count in counts if count is not None]
    return Progress(*numbers) if len(numbers) == len(_COUNTS) else None


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _outcome(request: HoldRequest, answer: Any) -> HoldOutcome | Exception | None:
    if isinstance(answer, Exception):
        return answer
    verdict, *rest = answer
    match verdict:
        case b"HELD" | b"REPEAT":
            booking = records.unpack(request.event_id, request.booking_id, rest[0])
            return HoldOutcome(booking, repeat=verdict == b"REPEAT")
        case b"KEY_REUSED" | b"REVOKED":
            return IdempotencyKeyReused() if verdict == b"KEY_REUSED" else AdmissionInvalid()
        case b"LIMIT":
            return TicketLimit(request.limit)
        case b"TAKEN":
            return SeatsTaken([ticket_id(request.event_id, seat) for seat in rest[1:]], seats_left=rest[0])
    return None


def _settlement(booking: Booking) -> dict[str, Any]:
    return {
        "booking_id": booking.booking_id,
        "record": _record(booking),
        "due_ms": _due_ms(booking),
        "before": records.predecessors(booking.state),
    }


def _triple(booking: Booking) -> tuple[str, bytes, int]:
    return booking.booking_id, _record(booking), _due_ms(booking)


def _record(booking: Booking) -> bytes:
    """The record of a booking as MySQL has committed it."""
    return records.pack(booking, holding=booking.state.live)


def _may_differ(booking: Booking, record: bytes | None) -> bool:
    # A payment that is under way puts off the end of the hold, which the record does not show.
    return record != _record(booking) or booking.payment_state is PaymentState.PROCESSING


def _batches(bookings: Sequence[Booking]) -> Iterator[Sequence[Booking]]:
    for start in range(0, len(bookings), _LOOK_MOST):
        yield bookings[start : start + _LOOK_MOST]


def _due_ms(booking: Booking) -> int:
    if booking.state is BookingState.CONFIRMED:
        return 0
    if booking.state.live:
        paying = booking.payment_state is PaymentState.PROCESSING
        return records.to_ms(booking.expire_time + GRACE + (PAYMENT_PATIENCE if paying else timedelta()))
    return records.to_ms(_now() + KEEP)


def _now() -> datetime:
    return datetime.now(tz=UTC)
