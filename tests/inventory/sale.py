"""A small sale, written into the tables directly, and questions about what became of it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from services.common.mysql import Database
from services.inventory.domain import Booking, BookingState, Money, booking_id_for, ticket_id

EVENT = 7
SEATS = 40
PRICE = 50_000
LIMIT = 4


class Sale:
    def __init__(self, db: Database) -> None:
        self.db = db

    async def create(self, event_id: int = EVENT, seats: int = SEATS, limit: int = LIMIT) -> None:
        now = datetime.now(tz=UTC).replace(tzinfo=None)
        day = timedelta(days=1)
        async with self.db.transaction() as tx:
            await tx.execute(
                "INSERT INTO events VALUES (%s, 'Concert', 'Club', %s, %s, %s, 'KRW', %s, 'v1', %s, TRUE)",
                (event_id, now + day, now - day, now + day, limit, seats),
            )
            await tx.execute_many(
                "INSERT INTO tickets (id, event_id, price) VALUES (%s, %s, %s)",
                [(ticket_id(event_id, seat), event_id, PRICE) for seat in range(seats)],
            )

    @staticmethod
    def command(
        user_id: int, seats: Sequence[int], key: str = "key-00001", *, event_id: int = EVENT, minutes: float = 600
    ) -> Booking:
        now = datetime.now(tz=UTC)
        return Booking(
            booking_id=booking_id_for(user_id, event_id, key),
            event_id=event_id,
            user_id=user_id,
            state=BookingState.PENDING,
            seat_indexes=tuple(seats),
            amount=Money(PRICE * len(seats)),
            request_hash=hashlib.sha256(repr(tuple(seats)).encode()).digest(),
            expire_time=now + timedelta(minutes=minutes),
            create_time=now,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        async with self.db.transaction() as tx:
            return await tx.fetch_all(sql, args)

    async def execute(self, sql: str, *args: Any) -> int:
        async with self.db.transaction() as tx:
            return await tx.execute(sql, args)

    async def owners(self) -> dict[int, tuple[str, str]]:
        """Status and owner of each seat that is not available."""
        rows = await self.rows("SELECT id & 1048575, status, booking_id FROM tickets WHERE status <> 'AVAILABLE'")
        return {seat: (status, owner) for seat, status, owner in rows}

    async def state(self, booking_id: str) -> str:
        ((state,),) = await self.rows("SELECT state FROM bookings WHERE booking_id = %s", booking_id)
        return str(state)

    async def make_overdue(self, booking_id: str, seconds: float = 1) -> None:
        """Moves the end of a booking into the past: nobody waits for an expiry."""
        await self.execute(
            "UPDATE bookings SET expire_time = UTC_TIMESTAMP(6) - INTERVAL %s SECOND WHERE booking_id = %s",
            seconds,
            booking_id,
        )
