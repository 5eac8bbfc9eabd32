"""Following a booking: each change of it and of its payment is told, and none is invented."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.inventory.domain import Booking, BookingNotFound, BookingState, PaymentState
from services.inventory.watch import Watchers
from tests.inventory.shop import IMPATIENT, KEY, Shop
from tests.support import eventually

RESERVED = BookingState.RESERVED
State = tuple[BookingState, PaymentState]


class Stream:
    """What one watcher has been told."""

    def __init__(self, shop: Shop, booking: Booking) -> None:
        self.watchers = Watchers(shop.bookings, shop.holds)
        self.told: list[State] = []
        self._task = asyncio.create_task(self._follow(booking))

    async def _follow(self, booking: Booking) -> None:
        async for each in self.watchers.watch(booking.booking_id, booking.user_id):
            self.told.append((each.state, each.payment_state))

    async def tells(self, *expected: State) -> None:
        async def told() -> bool:
            await self.watchers.look()
            await self.watchers.look_at_payments()
            return self.told == list(expected)

        await eventually(told)

    async def ended(self) -> None:
        await asyncio.wait_for(self._task, 5)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


Follow = Callable[[Booking], Awaitable[Stream]]


@pytest.fixture
async def follow(shop: Shop) -> AsyncIterator[Follow]:
    streams: list[Stream] = []

    async def opened(booking: Booking) -> Stream:
        streams.append(Stream(shop, booking))
        return streams[-1]

    yield opened
    for stream in streams:
        await stream.close()


async def test_a_booking_is_followed_from_promise_to_ticket(shop: Shop, follow: Follow) -> None:
    booking = await shop.held(1, [0])
    stream = await follow(booking)
    pending, reserved = (BookingState.PENDING, PaymentState.NONE), (RESERVED, PaymentState.NONE)
    await stream.tells(pending)
    await shop.holds.settle_many(await shop.ledger.commit_reservations([booking]))
    await stream.tells(pending, reserved)
    await shop.flow().pay(booking.booking_id, 1, "tok_approve", KEY)
    await stream.tells(pending, reserved, (BookingState.CONFIRMED, PaymentState.PAID))
    await stream.ended()


@pytest.mark.parametrize("before", [True, False])
async def test_a_payment_that_is_written_off_is_told(shop: Shop, follow: Follow, before: bool) -> None:
    booking = await shop.reserve(1, [0])
    told: list[State] = []
    if before:
        stream = await follow(booking)
        told.append((RESERVED, PaymentState.NONE))
        await stream.tells(*told)
    await shop.flow(IMPATIENT).pay(booking.booking_id, 1, "tok_timeout", KEY)
    if not before:
        stream = await follow(booking)
    told.append((RESERVED, PaymentState.PROCESSING))
    await stream.tells(*told)
    await shop.completer().run_once()
    told.append((RESERVED, PaymentState.DECLINED))
    await stream.tells(*told)
    await shop.flow().pay(booking.booking_id, 1, "tok_approve", "pay-key-0002")
    await stream.tells(*told, (BookingState.CONFIRMED, PaymentState.PAID))
    await stream.ended()


async def test_someone_elses_booking_cannot_be_followed(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    with pytest.raises(BookingNotFound):
        await anext(Watchers(shop.bookings, shop.holds).watch(booking.booking_id, 2))
