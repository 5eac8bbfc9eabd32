"""Paying: what each card comes to, once, whoever repeats."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import InvalidArgument
from services.inventory.domain import (
    BookingExpired,
    BookingNotCancellable,
    BookingNotFound,
    BookingNotPayable,
    BookingState,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    Money,
    PaymentDeclined,
    PaymentState,
    booking_id_for,
)
from services.inventory.ledger import Outcome
from services.inventory.payments.dummy import DummyGateway
from tests.inventory.sale import EVENT, Sale
from tests.inventory.shop import IMPATIENT, KEY, Shop
from tests.support import eventually


async def test_approved_is_confirmed_everywhere(shop: Shop) -> None:
    booking = await shop.reserve(1, [0, 1])
    paid = await shop.flow().pay(booking.booking_id, 1, "tok_approve", KEY)
    assert (paid.row.state, paid.row.payment_state, paid.replayed) == (
        BookingState.CONFIRMED,
        PaymentState.PAID,
        False,
    )
    assert await shop.sale.owners() == {0: ("SOLD", booking.booking_id), 1: ("SOLD", booking.booking_id)}
    assert await shop.charges() == [("CAPTURED", 0)]
    (mirrored,) = await shop.holds.read_many([(booking.event_id, booking.booking_id)])
    assert mirrored is not None
    assert mirrored.state is BookingState.CONFIRMED
    assert (await shop.audit()).clean


async def test_a_repeat_answers_the_first_outcome(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow()
    await flow.pay(booking.booking_id, 1, "tok_approve", KEY)
    again = await flow.pay(booking.booking_id, 1, "tok_approve", KEY)
    assert (again.row.state, again.replayed) == (BookingState.CONFIRMED, True)
    with pytest.raises(IdempotencyKeyReused):
        await flow.pay(booking.booking_id, 1, "tok_decline", KEY)
    with pytest.raises(BookingNotPayable):
        await flow.pay(booking.booking_id, 1, "tok_approve", "pay-key-0002")
    assert await shop.charges() == [("CAPTURED", 0)]


async def test_declined_stays_reserved_and_may_be_paid_by_another_card(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow()
    for _ in range(2):
        with pytest.raises(PaymentDeclined):
            await flow.pay(booking.booking_id, 1, "tok_decline", KEY)
    assert await shop.payments() == ["DECLINED"]
    assert await shop.sale.state(booking.booking_id) == "RESERVED"
    assert (await flow.pay(booking.booking_id, 1, "tok_approve", "pay-key-0002")).row.state is BookingState.CONFIRMED


async def test_no_answer_is_processing_and_the_same_later(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow(IMPATIENT)
    for replayed in (False, True):
        paid = await flow.pay(booking.booking_id, 1, "tok_timeout", KEY)
        assert (paid.row.state, paid.row.payment_state, paid.replayed) == (
            BookingState.RESERVED,
            PaymentState.PROCESSING,
            replayed,
        )
    with pytest.raises(IdempotencyInProgress):
        await flow.pay(booking.booking_id, 1, "tok_approve", "pay-key-0002")
    with pytest.raises(IdempotencyInProgress):
        await shop.ledger.cancel(booking.booking_id, 1)


async def test_a_repeat_while_the_first_is_running_is_told_so(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow(timeout=timedelta(seconds=30))
    first = asyncio.create_task(flow.pay(booking.booking_id, 1, "tok_timeout", KEY))
    await eventually(shop.payments)
    with pytest.raises(IdempotencyInProgress):
        await flow.pay(booking.booking_id, 1, "tok_timeout", KEY)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_of_many_payments_with_different_keys_one_charges(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow()
    keys = [f"pay-key-{number:04}" for number in range(10)]
    results = await asyncio.gather(
        *(flow.pay(booking.booking_id, 1, "tok_approve", key) for key in keys), return_exceptions=True
    )
    refused = [each for each in results if isinstance(each, BookingNotPayable | IdempotencyInProgress)]
    assert len(refused) == 9
    assert await shop.charges() == [("CAPTURED", 0)]


async def test_control_without_the_rule_of_one_payment_two_are_charged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test above is a race: the same without the lock on the booking and without its unique key."""
    from services.inventory.ledger import payments

    booking = await shop.reserve(1, [0])
    both_have_looked = asyncio.Barrier(2)
    payments_of = payments._payments_of

    async def look_together(tx: object, booking_id: str) -> object:
        found = await payments_of(tx, booking_id)  # type: ignore[arg-type]  # passed through
        await both_have_looked.wait()
        return found

    async def unlocked(*_: object) -> object:
        return booking

    monkeypatch.setattr(payments, "_payments_of", look_together)
    monkeypatch.setattr(payments, "lock_booking", unlocked)
    await shop.sale.execute("ALTER TABLE payments DROP INDEX one_active_payment")
    flow = shop.flow()
    await asyncio.gather(
        *(flow.pay(booking.booking_id, 1, "tok_approve", key) for key in (KEY, "pay-key-0002")), return_exceptions=True
    )
    assert await shop.charges() == [("CAPTURED", 0), ("CAPTURED", 0)]


async def test_who_may_not_pay_is_told_why(shop: Shop) -> None:
    mine, late, gone = [await shop.reserve(1, [seat], f"key-0000{seat}") for seat in range(3)]
    flow = shop.flow()
    with pytest.raises(BookingNotFound):
        await flow.pay(mine.booking_id, 2, "tok_approve", KEY)
    with pytest.raises(BookingNotFound):
        await flow.pay("7-não", 1, "tok_approve", KEY)
    with pytest.raises(InvalidArgument):
        await flow.pay(mine.booking_id, 1, "tok_unheard_of", KEY)
    await shop.sale.make_overdue(late.booking_id)
    with pytest.raises(BookingExpired):
        await flow.pay(late.booking_id, 1, "tok_approve", KEY)
    await shop.ledger.cancel(gone.booking_id, 1)
    with pytest.raises(BookingNotPayable):
        await flow.pay(gone.booking_id, 1, "tok_approve", KEY)
    await flow.pay(mine.booking_id, 1, "tok_approve", KEY)
    with pytest.raises(BookingNotCancellable):
        await shop.ledger.cancel(mine.booking_id, 1)
    assert await shop.charges() == [("CAPTURED", 0)]


async def test_a_booking_that_is_still_pending_is_there_for_its_buyer_alone(shop: Shop) -> None:
    pending = (await shop.held(1, [0])).booking_id
    with pytest.raises(BookingNotPayable):
        await shop.flow().pay(pending, 1, "tok_approve", KEY)
    with pytest.raises(BookingNotCancellable):
        await shop.bookings.cancel(pending, 1)
    with pytest.raises(BookingNotFound):
        await shop.flow().pay(pending, 2, "tok_approve", KEY)
    with pytest.raises(BookingNotFound):
        await shop.bookings.cancel(pending, 2)
    unknown = booking_id_for(1, EVENT, "key-00002")
    with pytest.raises(BookingNotFound):
        await shop.flow().pay(unknown, 1, "tok_approve", KEY)
    with pytest.raises(BookingNotFound):
        await shop.bookings.cancel(unknown, 1)


async def test_the_first_payment_lengthens_the_hold_and_no_later_one(shop: Shop) -> None:
    booking = await shop.reserve(1, [0])
    flow = shop.flow()

    async def nearly_over() -> None:
        soon = "UPDATE bookings SET expire_time = UTC_TIMESTAMP(6) + INTERVAL 3 SECOND WHERE booking_id = %s"
        await shop.sale.execute(soon, booking.booking_id)

    async def seconds_left() -> float:
        stored = await shop.ledger.booking(booking.booking_id, 1)
        assert stored is not None
        return (stored.expire_time - datetime.now(tz=UTC)).total_seconds()

    await nearly_over()
    with pytest.raises(PaymentDeclined):
        await flow.pay(booking.booking_id, 1, "tok_decline", KEY)
    assert await seconds_left() > 10
    await nearly_over()
    with pytest.raises(PaymentDeclined):
        await flow.pay(booking.booking_id, 1, "tok_decline", "pay-key-0002")
    assert await seconds_left() < 5


async def test_the_provider_keeps_its_book_by_key(sale: Sale) -> None:
    gateway = DummyGateway(sale.db)
    price = Money(1000)
    assert await gateway.lookup("k1") is None
    assert await gateway.charge("k1", price, "tok_approve") is Outcome.CAPTURED
    assert await gateway.charge("k1", price, "tok_decline") is Outcome.CAPTURED
    assert await gateway.cancel("k1") is Outcome.CAPTURED
    await gateway.refund("k1")
    await gateway.refund("k1")
    assert await gateway.cancel("k2") is Outcome.DECLINED
    assert await gateway.charge("k2", price, "tok_approve") is Outcome.DECLINED
    rows = await sale.rows("SELECT provider_key, state, refunds FROM dummy_charges ORDER BY provider_key")
    assert rows == [("k1", "REFUNDED", 1), ("k2", "VOIDED", 0)]
