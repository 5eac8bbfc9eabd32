"""Following bookings: one pipeline for all that are watched in this process, however many watch."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.inventory.bookings import Bookings
from services.inventory.domain import Booking, BookingState, PaymentState, event_of_booking
from services.inventory.holds import Holds

EVERY: Final = timedelta(milliseconds=150)
PAYMENTS_EVERY: Final = timedelta(seconds=1)
# Watching payments takes a twentieth of the time at most, however many are watched.
_REST: Final = 19
_PAYMENTS_MOST: Final = 500
# Reads of Redis that may find nothing (it was lost) before a watcher asks MySQL itself.
_PATIENCE: Final = 14


@dataclass(eq=False, slots=True)
class _Watcher:
    # What it was told last.
    seen: Booking
    # Whether a look found something else (None: it found nothing at all).
    news: asyncio.Queue[bool | None] = field(default_factory=lambda: asyncio.Queue(maxsize=1))

    def tell(self, *, changed: bool | None) -> None:
        # A watcher that is still busy with the last look hears of the next one.
        if not self.news.full():
            self.news.put_nowait(changed)


class Watchers:
    """Tells watchers when a booking or its payment changes its state."""

    def __init__(self, bookings: Bookings, holds: Holds) -> None:
        self._bookings = bookings
        self._holds = holds
        self._watched: defaultdict[str, set[_Watcher]] = defaultdict(set)
        self._closed = False

    async def watch(self, booking_id: str, user_id: int) -> AsyncIterator[Booking]:
        """The booking as it is now, then after each change of its state or its payment; ends after a final state.

        Raises BookingNotFound, also for someone else's.
        """
        watcher = _Watcher(await self._bookings.find(booking_id, user_id))
        self._watched[booking_id].add(watcher)
        try:
            yield watcher.seen
            while not (watcher.seen.state.final or self._closed):
                if await self._changed(watcher):
                    before, watcher.seen = watcher.seen, await self._bookings.find(booking_id, user_id)
                    if _told(watcher.seen) != _told(before):
                        yield watcher.seen
        finally:
            self._watched[booking_id].discard(watcher)
            if not self._watched[booking_id]:
                del self._watched[booking_id]

    async def _changed(self, watcher: _Watcher) -> bool:
        """Waits for the next look; whether the booking is worth reading."""
        for _ in range(_PATIENCE):
            changed = await watcher.news.get()
            if self._closed:
                return False
            if changed is not None:
                return changed
        return True

    def close(self) -> None:
        """Ends all streams: who still wants to know asks another process."""
        self._closed = True
        for watcher in self._all():
            watcher.tell(changed=None)

    def _all(self) -> Iterator[_Watcher]:
        return (watcher for watchers in self._watched.values() for watcher in watchers)

    async def run(self) -> None:
        """Looks at Redis until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY.total_seconds())

    async def look(self) -> None:
        """Reads all that are watched once and tells their watchers."""
        ids = list(self._watched)
        if not ids:
            return
        records = await self._holds.read_many([(event_of_booking(booking_id), booking_id) for booking_id in ids])
        for booking_id, record in zip(ids, records, strict=True):
            for watcher in self._watched.get(booking_id, ()):
                watcher.tell(changed=None if record is None else record.state is not watcher.seen.state)

    async def run_payments(self) -> None:
        """Looks at payments, which Redis does not know, until cancelled."""
        while True:
            clock = asyncio.get_running_loop().time
            began = clock()
            await self.look_at_payments()
            await asyncio.sleep(max(PAYMENTS_EVERY.total_seconds(), (clock() - began) * _REST))

    async def look_at_payments(self) -> None:
        """Reads the payments of all that wait for one, or may be paid, and tells the watchers of those that changed."""
        ids = sorted({each.seen.booking_id for each in self._all() if each.seen.state is BookingState.RESERVED})
        for start in range(0, len(ids), _PAYMENTS_MOST):
            batch = ids[start : start + _PAYMENTS_MOST]
            states = await self._bookings.payment_states(batch)
            for watcher in [each for booking_id in batch for each in self._watched.get(booking_id, ())]:
                if states.get(watcher.seen.booking_id, PaymentState.NONE) is not watcher.seen.payment_state:
                    watcher.tell(changed=True)


def _told(booking: Booking) -> tuple[BookingState, PaymentState]:
    return booking.state, booking.payment_state
