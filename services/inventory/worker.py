"""The batch worker: `booking.commands` become rows of MySQL; and the numbers of a sale, told to whoever asks."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from boxoffice.inventory.v1 import booking_events_pb2 as events_pb

from services.common import metrics
from services.common.eventlog import Entry, EventLogWriter, Poison, Record, topics
from services.common.telemetry import span
from services.inventory.domain import Booking, BookingNotFound, BookingState, Money, Progress, event_of_booking
from services.inventory.holds import Holds
from services.inventory.ledger import Ledger
from services.inventory.payments.flow import Settle
from services.inventory.recovery import Nudge

GROUP: Final = "inventory"
# A larger transaction is hardly faster per booking, and all of its buyers wait for its last row.
BATCH: Final = 500
PROGRESS_EVERY: Final = timedelta(milliseconds=500)
PROGRESS_AGAIN: Final = timedelta(seconds=5)
_EVENTS_EVERY: Final = timedelta(seconds=2)
_HASH_BYTES: Final = 32
_LONGEST_TRACEPARENT: Final = 64
_CURRENCY_LETTERS: Final = 3

_log = logging.getLogger(__name__)


class ReservationWorker:
    """Makes held bookings durable, those of several records in one transaction.

    `handle` is for `eventlog.consume`: it returns when MySQL has committed *and* Redis was told, and only then are the
    records done. If either fails the records come again, which changes nothing in MySQL and tells Redis once more.
    """

    def __init__(self, ledger: Ledger, settle: Settle, nudge: Nudge) -> None:
        self._ledger = ledger
        self._settle = settle
        self._nudge = nudge

    async def handle(self, records: list[Record]) -> None:
        """Decides the commands of all records in their order. Raises Poison for a record that is not one of ours."""
        commands = [command for record in records for command in parse(record)]
        traceparent = next((command.traceparent for command in commands if command.traceparent), None)
        for batch in _batches(commands):
            with span("inventory.commit_reservations", traceparent, bookings=len(batch)):
                await self._commit(batch)

    async def _commit(self, commands: Sequence[Booking]) -> None:
        settled = await self._ledger.commit_reservations(commands)
        self._nudge()
        _measure(commands)
        await self._settle(settled)


class ProgressPublisher:
    """Tells how many seats of each sale are left: twice a second at most when that has changed, else now and then.

    From a minute before the sale opens; what nobody has asked for is built in Redis for this.

    Args:
        ledger: knows which sales are open.
        holds: the seats.
        writer: takes the numbers.
        again: unchanged numbers are told again after this long, for those who have lost them or have come later.
    """

    def __init__(
        self, ledger: Ledger, holds: Holds, writer: EventLogWriter, *, again: timedelta = PROGRESS_AGAIN
    ) -> None:
        self._ledger = ledger
        self._holds = holds
        self._writer = writer
        self._again = again.total_seconds()
        # What was told last, and when.
        self._told: dict[int, tuple[float, Progress]] = {}

    async def run(self) -> None:
        """Publishes until cancelled."""
        rounds = _EVENTS_EVERY // PROGRESS_EVERY
        while True:
            open_events = await self._ledger.open_events()
            for _ in range(rounds):
                await self.publish(open_events)
                await asyncio.sleep(PROGRESS_EVERY.total_seconds())

    async def publish(self, event_ids: Sequence[int]) -> int:
        """Publishes those of the events that changed, or were not told for a while; returns how many."""
        clock = asyncio.get_running_loop().time()
        found = await asyncio.gather(*(self._look(event_id) for event_id in event_ids))
        now = datetime.now(tz=UTC)
        changed = {
            event_id: progress
            for event_id, progress in zip(event_ids, found, strict=True)
            if progress is not None and self._worth_telling(event_id, progress, clock)
        }
        entries: list[Entry] = [(str(event), _progress(event, each, now), {}) for event, each in changed.items()]
        if entries:
            await self._writer.append_many(topics.SALE_PROGRESS, entries)
        self._told.update({event_id: (clock, progress) for event_id, progress in changed.items()})
        return len(changed)

    def _worth_telling(self, event_id: int, now: Progress, clock: float) -> bool:
        when, told = self._told.get(event_id, (0.0, None))
        return told is None or (now.left, now.sold) != (told.left, told.sold) or clock - when >= self._again

    async def _look(self, event_id: int) -> Progress | None:
        # Without a buyer who asks nobody frees holds that are over, and queue would wait for seats that are there.
        await self._holds.reap(event_id)
        progress = await self._holds.progress(event_id)
        if progress is None and await self._build(event_id):
            progress = await self._holds.progress(event_id)
        return progress

    async def _build(self, event_id: int) -> bool:
        try:
            await self._holds.ensure_ready(event_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not keep the other sales from being told
            fields = {"event_id": event_id, "error": type(error).__name__}
            _log.warning("seats could not be built in Redis", extra={"fields": fields})
            return False
        return True


def parse(record: Record) -> list[Booking]:
    """The PENDING bookings of a record of `booking.commands`. Raises Poison, or DecodeError, for anything else."""
    return [_booking(command) for command in events_pb.ReserveCommands.FromString(record.value).commands]


def _booking(command: events_pb.ReserveCommand) -> Booking:
    if not (command.booking_id and command.seat_indexes and len(command.request_hash) == _HASH_BYTES):
        raise Poison("a command without booking id, seats or hash of its request")
    _check_ids(command)
    return Booking(
        booking_id=command.booking_id,
        event_id=command.event_id,
        user_id=command.user_id,
        state=BookingState.PENDING,
        seat_indexes=tuple(sorted(command.seat_indexes)),
        amount=Money(command.amount.amount, command.amount.currency),
        request_hash=command.request_hash,
        expire_time=command.expire_time.ToDatetime(UTC),
        create_time=command.hold_time.ToDatetime(UTC),
        traceparent=_traceparent(command.traceparent),
    )


def _check_ids(command: events_pb.ReserveCommand) -> None:
    # One of them in a batch would fail the statement, and the bookings of everyone else in it.
    try:
        event_id = event_of_booking(command.booking_id)
    except BookingNotFound:
        raise Poison("a command whose booking id is none") from None
    if event_id != command.event_id:
        raise Poison("a command whose booking id is of another event")
    currency = command.amount.currency
    if not (len(currency) == _CURRENCY_LETTERS and currency.isascii()):
        raise Poison("a command without a currency")


def _traceparent(text: str) -> str:
    # It serves nobody but who looks for a fault: no reason to lose a booking.
    return text if text.isascii() and len(text) <= _LONGEST_TRACEPARENT else ""


def _batches(commands: Sequence[Booking]) -> Iterator[Sequence[Booking]]:
    for start in range(0, len(commands), BATCH):
        yield commands[start : start + BATCH]


def _measure(commands: Sequence[Booking]) -> None:
    metrics.WORKER_BATCH_SIZE.observe(len(commands))
    now = datetime.now(tz=UTC)
    for command in commands:
        metrics.BOOKING_DURABLE_DURATION.observe((now - command.create_time).total_seconds())


def _progress(event_id: int, progress: Progress, now: datetime) -> bytes:
    message = events_pb.SaleProgress(
        event_id=event_id, seats_total=progress.total, seats_left=progress.left, seats_sold=progress.sold
    )
    message.time.FromDatetime(now)
    return message.SerializeToString()
