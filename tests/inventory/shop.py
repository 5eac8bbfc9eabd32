"""The parts of inventory around one small sale, on real servers, to be run step by step."""

from datetime import timedelta

from redis.asyncio import Redis

from services.inventory.audit import Audit, AuditReport
from services.inventory.bookings import Bookings
from services.inventory.domain import Booking
from services.inventory.holds import KEEP, HoldOutcome, HoldRequest, Holds, Snapshot
from services.inventory.ledger import Ledger
from services.inventory.payments.dummy import DummyGateway
from services.inventory.payments.flow import PaymentFlow
from services.inventory.records import Block
from services.inventory.recovery import Completer, Sweeper
from tests.inventory.sale import EVENT, LIMIT, SEATS, Sale

NOW = timedelta()
# How long a provider is waited for in tests of one that does not answer. Others wait long enough for a slow machine.
IMPATIENT = timedelta(milliseconds=200)
KEY = "pay-key-0001"


class Shop:
    def __init__(self, sale: Sale, redis: Redis) -> None:
        self.sale = sale
        self.redis = redis
        self.ledger = Ledger(sale.db)
        self.holds = Holds(redis, self._snapshot)
        self.bookings = Bookings(self.ledger, self.holds)
        self.gateway = DummyGateway(sale.db, late_by=timedelta(hours=1))
        self.nudges = 0

    async def _snapshot(self, event_id: int) -> Snapshot:
        return Snapshot(SEATS, await self.ledger.live_bookings(event_id, ended_within=KEEP))

    def nudge(self) -> None:
        self.nudges += 1

    def flow(self, timeout: timedelta = timedelta(seconds=5)) -> PaymentFlow:
        return PaymentFlow(
            self.ledger, self.gateway, self.holds.settle_many, self.bookings.check_decided, timeout=timeout
        )

    def completer(self) -> Completer:
        return Completer(self.ledger, self.gateway, self.holds.settle_many, self.nudge, after=NOW)

    def sweeper(self) -> Sweeper:
        return Sweeper(self.ledger, self.holds.settle_many, self.nudge)

    async def reserve(self, user_id: int, seats: list[int], key: str = "key-00001") -> Booking:
        """A booking that is RESERVED in MySQL and in Redis."""
        (booking,) = await self.ledger.commit_reservations([self.sale.command(user_id, seats, key)])
        await self.holds.settle_many([booking])
        return booking

    async def held(self, user_id: int, seats: list[int], key: str = "key-00001") -> Booking:
        """A booking that is PENDING in Redis."""
        wish = self.sale.command(user_id, seats, key)
        request = HoldRequest(
            booking_id=wish.booking_id,
            event_id=EVENT,
            user_id=user_id,
            request_hash=wish.request_hash,
            limit=LIMIT,
            blocks=(Block(wish.seat_indexes, wish.amount.amount),),
        )
        (outcome,) = await self.holds.hold_many([request])
        assert isinstance(outcome, HoldOutcome), outcome
        return outcome.booking

    async def audit(self) -> AuditReport:
        return await Audit(self.sale.db, self.redis, grace=NOW, money_grace=NOW).run(EVENT)

    async def taken(self) -> set[int]:
        """Indexes of the seats that Redis would not give to anyone."""
        _, bitmap = await self.holds.seats(EVENT)
        return {at for at in range(SEATS) if bitmap[at // 8] & (0x80 >> at % 8)}

    async def charges(self) -> list[tuple[str, int]]:
        """State and number of refunds of everything in the book of the provider."""
        rows = await self.sale.rows("SELECT state, refunds FROM dummy_charges ORDER BY create_time")
        return [(state, refunds) for state, refunds in rows]

    async def payments(self) -> list[str]:
        return [state for (state,) in await self.sale.rows("SELECT state FROM payments ORDER BY payment_id")]
