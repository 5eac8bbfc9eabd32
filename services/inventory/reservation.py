"""Reserving: check, hold, append to the event log, and only then promise.

A batch is one pipeline of holds and one record per event. What is answered as held is in the log, and whatever the log
did not take is released: no process can die in a way that breaks a promise.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from boxoffice.inventory.v1 import money_pb2
from redis.exceptions import RedisError

from services.common import metrics
from services.common.clock import Clock
from services.common.errors import Unavailable, describe
from services.common.eventlog import topics
from services.common.eventlog.port import EventLogWriter
from services.common.keyring import AdmissionToken, KeyRing
from services.inventory import domain
from services.inventory.availability import Availability
from services.inventory.catalog import Catalog, Sale
from services.inventory.domain import Booking, BookingState, SeatsTaken
from services.inventory.holds import HoldOutcome, HoldRequest, Holds
from services.inventory.records import Block
from services.inventory.shop import HoldTimes
from services.inventory.wishes import Wish, check_admission, check_sale, check_shape

# After the first try, with a newer picture of the hall each time.
_ROUNDS: Final = 3
# What a repeat of a request that was answered before must not be told instead of its first answer.
_PASSING: Final = (domain.SoldOut, domain.NoAdjacentSeats, domain.SaleClosed, domain.AdmissionInvalid)

Result = HoldOutcome | Exception
# Results by the position of their wish in the batch.
_Results = dict[int, Result]

_log = logging.getLogger(__name__)


class Reservations:
    """Reserves seats, many requests at a time."""

    def __init__(
        self,
        catalog: Catalog,
        availability: Availability,
        holds: Holds,
        writer: EventLogWriter,
        *,
        admission_keys: KeyRing,
        clock: Clock,
        hold_times: HoldTimes,
    ) -> None:
        self._catalog = catalog
        self._availability = availability
        self._holds = holds
        self._writer = writer
        self._keys = admission_keys
        self._clock = clock
        self._hold_times = hold_times
        self._noting: set[asyncio.Task[None]] = set()

    async def reserve_many(self, wishes: Sequence[Wish]) -> list[Result]:
        """One outcome per wish, in order: a booking that is promised, or the reason why not."""
        results: _Results = {}
        proven = self._prove(wishes, results)
        sales = await self._sales({wishes[at].event_id for at in proven})
        for at, admission in proven.items():
            self._check(at, wishes[at], sales[wishes[at].event_id], admission, results)
        await self._hold({at: wish for at, wish in enumerate(wishes) if at not in results}, proven, sales, results)
        await self._answer_repeats(wishes, proven, results)
        await self._promise(wishes, results)
        for result in results.values():
            metrics.RESERVATIONS.labels(_label(result)).inc()
        return [results[at] for at in range(len(wishes))]

    async def aclose(self) -> None:
        """Waits for what is still being noted. Call it when nobody reserves any more."""
        await asyncio.gather(*self._noting)

    def _prove(self, wishes: Sequence[Wish], results: _Results) -> dict[int, AdmissionToken]:
        """Who was let in, before anything is looked up for them."""
        proven: dict[int, AdmissionToken] = {}
        for at, wish in enumerate(wishes):
            try:
                proven[at] = check_admission(wish, self._keys)
            except (domain.AdmissionRequired, domain.AdmissionInvalid) as refusal:
                results[at] = refusal
        return proven

    async def _sales(self, event_ids: Iterable[int]) -> Mapping[int, Sale | Exception]:
        return {event_id: await self._sale(event_id) for event_id in event_ids}

    async def _sale(self, event_id: int) -> Sale | Exception:
        try:
            return await self._catalog.sale(event_id)
        except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns the wishes for one event
            return refusal

    def _check(self, at: int, wish: Wish, sale: Sale | Exception, admission: AdmissionToken, results: _Results) -> None:
        if isinstance(sale, Exception):
            results[at] = sale
            return
        try:
            check_shape(wish)
            check_sale(wish, sale, admission, self._clock.now())
        except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns one wish
            results[at] = refusal

    async def _hold(
        self,
        wishes: dict[int, Wish],
        proven: Mapping[int, AdmissionToken],
        sales: Mapping[int, Sale | Exception],
        results: _Results,
    ) -> None:
        """Fills in a result for each wish. Those whose blocks were all taken try again with a newer picture."""
        looked_again: set[int] = set()
        for _ in range(_ROUNDS):
            blocks = await self._blocks(wishes, looked_again, results)
            requests = [_request(wishes[at], proven[at], sales[wishes[at].event_id], blocks[at]) for at in blocks]
            results.update(zip(blocks, await self._hold_timed(requests), strict=True))
            wishes = {at: wish for at, wish in wishes.items() if wish.quantity and isinstance(results[at], SeatsTaken)}
            if not wishes:
                return
            looked_again = {wish.event_id for wish in wishes.values()}
            failures = await self._look_again(looked_again)
            results.update({at: failures[wish.event_id] for at, wish in wishes.items() if wish.event_id in failures})
            wishes = {at: wish for at, wish in wishes.items() if wish.event_id not in failures}
        # Seen free and gone each time: they may try once more themselves, unless nothing is left.
        sold_out = {at for at in wishes if not getattr(results[at], "seats_left", None)}
        results.update({at: domain.SoldOut() for at in sold_out})

    async def _look_again(self, event_ids: Iterable[int]) -> dict[int, Exception]:
        """Takes a newer picture of each hall; answers the events that have none, which must not stop the others."""
        ids = list(event_ids)
        looks = (self._availability.picker(event_id, newest=True) for event_id in ids)
        found = await asyncio.gather(*looks, return_exceptions=True)
        return {event_id: each for event_id, each in zip(ids, found, strict=True) if isinstance(each, Exception)}

    async def _hold_timed(self, requests: Sequence[HoldRequest]) -> list[Result]:
        if not requests:
            return []
        metrics.HOLD_BATCH_SIZE.observe(len(requests))
        began = time.monotonic()
        try:
            return await self._holds.hold_many(requests)
        except Exception as error:  # noqa: BLE001 - what was held in an earlier round must still be promised
            return [error] * len(requests)
        finally:
            seconds = time.monotonic() - began
            metrics.HOLD_DURATION.observe(seconds)
            self._hold_times.note(seconds, len(requests))

    async def _blocks(
        self, wishes: Mapping[int, Wish], looked_again: set[int], results: _Results
    ) -> dict[int, list[tuple[int, ...]]]:
        """Ranked blocks for each wish; those that find none get a result instead."""
        blocks: dict[int, list[tuple[int, ...]]] = {}
        for at, wish in wishes.items():
            try:
                blocks[at] = [wish.seat_indexes] if wish.ticket_ids else await self._pick(wish, looked_again)
            except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns one wish
                results[at] = refusal
        return blocks

    async def _pick(self, wish: Wish, looked_again: set[int]) -> list[tuple[int, ...]]:
        picture, picker = await self._availability.picker(wish.event_id)
        found = picker.pick(wish.quantity, wish.section)
        if not found and wish.event_id not in looked_again:
            # Before anybody is told that it is full the hall is looked at once more, once for the whole batch.
            looked_again.add(wish.event_id)
            picture, picker = await self._availability.picker(wish.event_id, newest=True)
            found = picker.pick(wish.quantity, wish.section)
        if found:
            return found
        raise domain.NoAdjacentSeats if picture.progress.left else domain.SoldOut

    async def _answer_repeats(
        self, wishes: Sequence[Wish], proven: Mapping[int, AdmissionToken], results: _Results
    ) -> None:
        """A repeat gets its first answer also when the sale is over, the seats are gone or the admission has ended."""
        refused = [at for at in proven if isinstance(results[at], _PASSING)]
        if not refused:
            return
        try:
            known = await self._holds.read_many([(wishes[at].event_id, wishes[at].booking_id) for at in refused])
        except RedisError as error:
            # Nobody knows which of them are repeats; the others of the batch have their holds.
            results.update(dict.fromkeys(refused, error))
            return
        for at, booking in zip(refused, known, strict=True):
            if booking is not None:
                same = booking.request_hash == wishes[at].request_hash
                results[at] = HoldOutcome(booking, repeat=True) if same else domain.IdempotencyKeyReused()

    async def _promise(self, wishes: Sequence[Wish], results: _Results) -> None:
        """Appends what is PENDING, one record per event.

        Repeats too, until they are known to be durable: the first append may have failed, or be failing now.
        """
        by_event: defaultdict[int, dict[int, HoldOutcome]] = defaultdict(dict)
        for at, result in results.items():
            if isinstance(result, HoldOutcome) and result.booking.state is BookingState.PENDING:
                by_event[wishes[at].event_id][at] = result
        await asyncio.gather(*(self._append(event_id, held, wishes, results) for event_id, held in by_event.items()))

    async def _append(
        self, event_id: int, held: Mapping[int, HoldOutcome], wishes: Sequence[Wish], results: _Results
    ) -> None:
        # By booking: a repeat may travel in the batch of its first.
        unique = {outcome.booking.booking_id: (wishes[at], outcome) for at, outcome in held.items()}
        traceparent = next((wishes[at].traceparent for at in held if wishes[at].traceparent), "")
        headers = {"traceparent": traceparent} if traceparent else {}
        try:
            record = events_pb.ReserveCommands(commands=[_command(wish, outcome) for wish, outcome in unique.values()])
            await self._writer.append(topics.BOOKING_COMMANDS, str(event_id), record.SerializeToString(), headers)
        except Exception as error:  # noqa: BLE001 - whatever kept it from the log, nothing may be promised
            _log.warning("reservations released: not in the event log", extra={"fields": {"error": repr(error)}})
            results.update({at: Unavailable("reservations cannot be recorded now") for at in held})
            await self._release([each.booking for each in held.values() if not each.repeat])
            return
        # Beside the answer, which need not wait for what only the auditor reads.
        noting = asyncio.create_task(self._note(event_id, list(unique)))
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _note(self, event_id: int, booking_ids: Sequence[str]) -> None:
        try:
            await self._holds.promise(event_id, booking_ids)
        except RedisError as error:
            _log.warning("promises are not watched over", extra={"fields": {"error": repr(error)}})

    async def _release(self, bookings: Sequence[Booking]) -> None:
        try:
            await self._holds.release_many(bookings)
        except RedisError as error:
            # Nobody was promised these seats: the holds end by themselves.
            _log.warning("holds are left to end by themselves", extra={"fields": {"error": repr(error)}})


def _request(
    wish: Wish, admission: AdmissionToken, sale: Sale | Exception, blocks: Sequence[tuple[int, ...]]
) -> HoldRequest:
    assert isinstance(sale, Sale), "only wishes whose sale was found are held"
    return HoldRequest(
        booking_id=wish.booking_id,
        event_id=wish.event_id,
        user_id=wish.user_id,
        request_hash=wish.request_hash,
        limit=sale.event.tickets_per_person,
        blocks=tuple(Block(seats, sale.seat_map.price_of_all(seats)) for seats in blocks),
        token_id=admission.token_id,
    )


def _command(wish: Wish, outcome: HoldOutcome) -> events_pb.ReserveCommand:
    booking = outcome.booking
    command = events_pb.ReserveCommand(
        booking_id=booking.booking_id,
        event_id=booking.event_id,
        user_id=booking.user_id,
        seat_indexes=booking.seat_indexes,
        amount=money_pb2.Money(amount=booking.amount.amount, currency=booking.amount.currency),
        request_hash=booking.request_hash,
        traceparent=wish.traceparent,
    )
    command.hold_time.FromDatetime(booking.create_time)
    command.expire_time.FromDatetime(booking.expire_time)
    return command


def _label(result: Result) -> str:
    if isinstance(result, HoldOutcome):
        return "replayed" if result.repeat else "held"
    return describe(result).reason
