"""Following bookings: one pipeline for all that are watched in this process, however many watch."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from services.inventory.bookings import Bookings
from services.inventory.domain import Booking, BookingState, event_of_booking
from services.inventory.holds import Holds

EVERY: Final = timedelta(milliseconds=150)
# Reads of Redis that may find nothing (it was lost) before a watcher asks MySQL itself.
_PATIENCE: Final = 14


class Watchers:
    """Tells watchers when a booking changes its state."""

    def __init__(self, bookings: Bookings, holds: Holds) -> None:
        self._bookings = bookings
        self._holds = holds
        # What each watcher saw last, and where it is told about something newer.
        self._watched: defaultdict[str, set[asyncio.Queue[BookingState | None]]] = defaultdict(set)
        self._closed = False

    async def watch(self, booking_id: str, user_id: int) -> AsyncIterator[Booking]:
        """The booking as it is now, then after each change of its state; ends after a final one.

        Raises BookingNotFound, also for someone else's.
        """
        booking = await self._bookings.find(booking_id, user_id)
        news: asyncio.Queue[BookingState | None] = asyncio.Queue(maxsize=1)
        self._watched[booking_id].add(news)
        try:
            yield booking
            while not (booking.state.final or self._closed):
                if await self._changed(news, booking.state):
                    seen, booking = booking, await self._bookings.find(booking_id, user_id)
                    if booking.state is not seen.state:
                        yield booking
        finally:
            self._watched[booking_id].discard(news)
            if not self._watched[booking_id]:
                del self._watched[booking_id]

    async def _changed(self, news: asyncio.Queue[BookingState | None], seen: BookingState) -> bool:
        """Waits for the next look at Redis; whether MySQL is worth asking."""
        for _ in range(_PATIENCE):
            state = await news.get()
            if self._closed:
                return False
            if state is not None:
                return state is not seen
        return True

    def close(self) -> None:
        """Ends all streams: who still wants to know asks another process."""
        self._closed = True
        for news in [each for watchers in self._watched.values() for each in watchers]:
            if not news.full():
                news.put_nowait(None)

    async def run(self) -> None:
        """Looks until cancelled."""
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
            for news in self._watched.get(booking_id, ()):
                # A watcher that is still busy with the last look hears of the next one.
                if not news.full():
                    news.put_nowait(record.state if record else None)
