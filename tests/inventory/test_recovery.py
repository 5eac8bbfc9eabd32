"""Whatever stops half-way comes to an end, and to one end only."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from boxoffice.inventory.v1 import booking_events_pb2 as events_pb

from services.common.mysql import Transaction
from services.inventory import audit
from services.inventory.domain import (
    PAYMENT_PATIENCE,
    Booking,
    BookingExpired,
    BookingState,
    Money,
    PaymentDeclined,
    PaymentState,
)
from services.inventory.holds import key
from services.inventory.ledger import Ledger, Outcome, Payment, PaymentRequest, expiry, reads
from services.inventory.payments.dummy import DummyGateway
from services.inventory.payments.flow import PaymentFlow, hash_of_method
from services.inventory.payments.gateway import ProviderUnavailable
from services.inventory.records import from_ms, to_ms
from services.inventory.recovery import Reconciler
from tests.inventory.sale import EVENT, SEATS
from tests.inventory.shop import IMPATIENT, KEY, Shop
from tests.support import eventually

SILENT = 1000.0
"""Seconds after its time at which a booking has lost its seats, payment or not."""


class Crash(BaseException):
    """The process is gone: nothing after this line has run."""


class CrashingGateway(DummyGateway):
    """Dies before or after the provider has done what it was asked."""

    crash_at = ""

    async def charge(self, key: str, amount: Money, method: str) -> Outcome:
        if self.crash_at == "after the intent":
            raise Crash
        outcome = await super().charge(key, amount, method)
        if self.crash_at == "after the charge":
            raise Crash
        return outcome

    async def refund(self, key: str) -> None:
        await super().refund(key)
        if self.crash_at == "after the refund":
            raise ProviderUnavailable


class CrashingLedger(Ledger):
    """Dies before or after the outcome is written."""

    crash_at = ""

    async def close_payment(self, payment: Payment, outcome: Outcome) -> Booking:
        if self.crash_at == "before the outcome":
            raise Crash
        booking = await super().close_payment(payment, outcome)
        if self.crash_at == "after the outcome":
            raise Crash
        return booking


async def crash_in_payment(shop: Shop, crash_at: str, method: str = "tok_approve") -> Booking:
    booking = await shop.reserve(1, [0, 1])
    gateway, ledger = CrashingGateway(shop.sale.db), CrashingLedger(shop.sale.db)
    gateway.crash_at = ledger.crash_at = crash_at

    async def settle(bookings: list[Booking]) -> None:
        if crash_at == "before Redis is told" and bookings[0].state is BookingState.CONFIRMED:
            raise Crash
        await shop.holds.settle_many(bookings)

    flow = PaymentFlow(ledger, gateway, settle, shop.bookings.check_decided, timeout=timedelta(seconds=5))
    with pytest.raises(Crash):
        await flow.pay(booking.booking_id, 1, method, KEY)
    return booking


async def recover(shop: Shop) -> None:
    await shop.completer().run_once()
    await shop.sweeper().run_once()
    await Reconciler(shop.ledger, shop.holds.settle_many).run_once()


@pytest.mark.parametrize(
    ("crash_at", "expected"),
    [
        ("after the intent", ("RESERVED", "DECLINED", "VOIDED")),
        ("after the charge", ("CONFIRMED", "CAPTURED", "CAPTURED")),
        ("before the outcome", ("CONFIRMED", "CAPTURED", "CAPTURED")),
        ("after the outcome", ("CONFIRMED", "CAPTURED", "CAPTURED")),
        ("before Redis is told", ("CONFIRMED", "CAPTURED", "CAPTURED")),
    ],
)
async def test_a_crash_in_a_payment_is_completed(shop: Shop, crash_at: str, expected: tuple[str, str, str]) -> None:
    booking = await crash_in_payment(shop, crash_at)
    await recover(shop)
    ((payment,), ((charge, refunds),)) = await shop.payments(), await shop.charges()
    assert (await shop.sale.state(booking.booking_id), payment, charge) == expected
    assert refunds == 0
    report = await shop.audit()
    assert report.clean, report.findings


async def test_control_without_the_completer_the_money_is_lost(shop: Shop) -> None:
    await crash_in_payment(shop, "before the outcome")
    assert (await shop.audit()).counts()["paid_without_ticket"] == 1


async def test_a_payment_that_was_written_off_cannot_be_charged_later(shop: Shop) -> None:
    arrives = asyncio.Event()

    class Distant(DummyGateway):
        async def _charge_late(self, key: str, amount: Money) -> Outcome:
            await arrives.wait()
            return await self._enter(key, amount, "CAPTURED")

    booking = await shop.reserve(1, [0])
    shop.gateway = Distant(shop.sale.db)
    paid = await shop.flow(IMPATIENT).pay(booking.booking_id, 1, "tok_late", KEY)
    assert paid.row.state is BookingState.RESERVED
    (charge,) = shop.gateway._running
    await shop.completer().run_once()  # while the charge is on its way
    arrives.set()
    assert await charge is Outcome.DECLINED
    assert await shop.payments() == ["DECLINED"]
    assert await shop.charges() == [("VOIDED", 0)]
    assert (await shop.audit()).clean


async def expire_while_paying(shop: Shop) -> Booking:
    """A payment that was captured, whose booking has expired: the answer came too late by far."""
    booking = await shop.reserve(1, [0, 1])
    await shop.flow(IMPATIENT).pay(booking.booking_id, 1, "tok_late", KEY)
    await eventually(shop.charges)
    await shop.sale.make_overdue(booking.booking_id, SILENT)
    assert await shop.sweeper().run_once() == 1
    assert await shop.sale.owners() == {}
    return booking


async def test_paid_too_late_gets_the_same_seats_if_they_are_free(shop: Shop) -> None:
    booking = await expire_while_paying(shop)
    await shop.completer().run_once()
    assert await shop.sale.state(booking.booking_id) == "CONFIRMED"
    assert await shop.sale.owners() == {0: ("SOLD", booking.booking_id), 1: ("SOLD", booking.booking_id)}
    assert await shop.taken() == {0, 1}
    assert (await shop.audit()).clean


async def test_paid_too_late_is_refunded_once_if_a_seat_is_gone(shop: Shop) -> None:
    booking = await expire_while_paying(shop)
    other = await shop.reserve(2, [1])
    completers = [shop.completer() for _ in range(5)]
    for _ in range(3):
        await asyncio.gather(*(each.run_once() for each in completers))
    assert await shop.sale.state(booking.booking_id) == "REFUNDED"
    assert await shop.payments() == ["REFUNDED"]
    assert await shop.charges() == [("REFUNDED", 1)]
    assert await shop.sale.owners() == {1: ("RESERVED", other.booking_id)}
    assert (await shop.audit()).clean


async def test_a_crash_between_refund_and_ledger_refunds_once(shop: Shop) -> None:
    booking = await expire_while_paying(shop)
    await shop.reserve(2, [1])
    shop.gateway = gateway = CrashingGateway(shop.sale.db)
    gateway.crash_at = "after the refund"
    await shop.completer().run_once()
    assert await shop.payments() == ["REFUND_DUE"]
    gateway.crash_at = ""
    await shop.completer().run_once()
    assert await shop.charges() == [("REFUNDED", 1)]
    assert await shop.sale.state(booking.booking_id) == "REFUNDED"


async def test_a_silent_provider_leaves_the_payment_for_later(shop: Shop) -> None:
    class Silent(DummyGateway):
        async def lookup(self, key: str) -> Outcome | None:
            raise ProviderUnavailable(key)

    booking = await shop.reserve(1, [0])
    await shop.flow(IMPATIENT).pay(booking.booking_id, 1, "tok_late", KEY)
    shop.gateway = Silent(shop.sale.db)
    assert await shop.completer().run_once() == 1
    assert await shop.payments() == ["INTENT"]
    assert [each.state for each in await shop.ledger.claim_unfinished(timedelta(seconds=10))] == []


async def facts(shop: Shop, state: BookingState) -> list[str]:
    payloads = await shop.sale.rows("SELECT payload FROM outbox")
    events = [fact for (payload,) in payloads for fact in events_pb.BookingEvents.FromString(payload).events]
    return [fact.booking_id for fact in events if int(fact.state) == state]


async def overdue_bookings(shop: Shop) -> set[str]:
    bookings = [await shop.reserve(user, [user]) for user in range(1, 31)]
    await shop.sale.execute("UPDATE bookings SET expire_time = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")
    return {each.booking_id for each in bookings}


async def sweep_together(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two sweepers that have both searched before either goes on; returns the bookings that were told to expire."""
    both_have_searched = asyncio.Barrier(2)
    expire = expiry._expire

    async def expire_together(tx: Transaction, due: list[Booking], *args: object) -> list[Booking]:
        await both_have_searched.wait()
        return await expire(tx, due, *args)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(expiry, "_expire", expire_together)
    await asyncio.gather(shop.sweeper().run_once(), shop.sweeper().run_once())
    return await facts(shop, BookingState.EXPIRED)


async def test_two_sweepers_expire_each_booking_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = await overdue_bookings(shop)
    told = await sweep_together(shop, monkeypatch)
    assert sorted(told) == sorted(overdue)
    assert await shop.sale.owners() == {}
    assert await shop.taken() == set()
    assert (await shop.audit()).clean


async def test_control_without_locks_two_sweepers_tell_twice(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = await overdue_bookings(shop)
    monkeypatch.setattr(expiry, "_FIND_DUE", expiry._FIND_DUE.replace("FOR UPDATE SKIP LOCKED", ""))
    assert len(await sweep_together(shop, monkeypatch)) == 2 * len(overdue)


async def intent_of_an_overdue_booking(shop: Shop) -> Booking:
    booking = await shop.reserve(1, [0])
    await shop.ledger.open_payment(PaymentRequest(booking.booking_id, 1, KEY, hash_of_method("tok_approve"), "dummy"))
    await shop.sale.make_overdue(booking.booking_id)
    return booking


async def test_the_sweeper_leaves_a_booking_that_is_being_paid(shop: Shop) -> None:
    booking = await intent_of_an_overdue_booking(shop)
    assert await shop.sweeper().run_once() == 0
    assert await shop.sale.state(booking.booking_id) == "RESERVED"


async def test_control_without_a_look_at_payments_it_expires(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await intent_of_an_overdue_booking(shop)
    monkeypatch.setattr(expiry, "_FIND_DUE", expiry._FIND_DUE.replace("NOT EXISTS", "EXISTS"))
    monkeypatch.setattr(expiry, "_PAYING", expiry._PAYING + " AND FALSE")
    assert await shop.sweeper().run_once() == 1


async def test_pay_and_sweep_at_the_same_moment_agree(shop: Shop) -> None:
    """Some are over before anybody pays, some are far from it, and those between end while they are being paid."""
    over, contested, early = range(1, 6), range(6, 26), range(26, 31)
    bookings = [await shop.reserve(user, [user]) for user in (*over, *contested, *early)]
    all_are_there = asyncio.Barrier(len(bookings) + 2)
    flow = shop.flow()

    async def pay(booking: Booking) -> object:
        await all_are_there.wait()
        return await flow.pay(booking.booking_id, booking.user_id, "tok_approve", KEY)

    async def sweep() -> None:
        await all_are_there.wait()
        while await shop.sale.rows("SELECT 1 FROM bookings WHERE state = 'RESERVED'"):
            await shop.sweeper().run_once()

    await shop.sale.execute(
        "UPDATE bookings SET expire_time = UTC_TIMESTAMP(6) + INTERVAL CASE WHEN user_id < %s THEN -1000000 "
        "WHEN user_id < %s THEN (user_id - %s) * 8000 ELSE 60000000 END MICROSECOND",
        contested.start,
        early.start,
        contested.start,
    )
    *paid, _, _ = await asyncio.gather(*map(pay, bookings), sweep(), sweep(), return_exceptions=True)
    states = dict(await shop.sale.rows("SELECT user_id, state FROM bookings"))
    assert {states[user] for user in over} == {"EXPIRED"}
    assert {states[user] for user in early} == {"CONFIRMED"}
    outcomes = ["EXPIRED" if isinstance(each, BookingExpired) else "CONFIRMED" for each in paid]
    assert [states[each.user_id] for each in bookings] == outcomes
    assert await shop.charges() == [("CAPTURED", 0)] * outcomes.count("CONFIRMED")
    assert (await shop.audit()).clean


async def pay_again_at_the_last_moment(shop: Shop) -> Booking:
    """A second payment does not lengthen the hold; it is under way when the time of the booking is over."""
    booking = await shop.reserve(1, [0])
    with pytest.raises(PaymentDeclined):
        await shop.flow().pay(booking.booking_id, 1, "tok_decline", KEY)
    paying = await shop.flow(IMPATIENT).pay(booking.booking_id, 1, "tok_timeout", "pay-key-0002")
    assert paying.row.payment_state is PaymentState.PROCESSING
    return paying.row


async def end_of_hold(shop: Shop, booking: Booking) -> datetime:
    score = await shop.redis.zscore(key(booking.event_id, "expiries"), booking.booking_id)
    assert isinstance(score, float)
    return from_ms(int(score))


async def test_redis_keeps_the_seats_of_a_running_payment_as_long_as_mysql(shop: Shop) -> None:
    booking = await pay_again_at_the_last_moment(shop)
    kept_until = from_ms(to_ms(booking.expire_time + PAYMENT_PATIENCE))
    assert await end_of_hold(shop, booking) > kept_until
    await shop.redis.flushdb()
    await shop.holds.ensure_ready(EVENT)
    assert await end_of_hold(shop, booking) > kept_until


async def test_redis_is_reminded_of_a_payment_that_it_was_not_told_about(shop: Shop) -> None:
    booking = await pay_again_at_the_last_moment(shop)
    await shop.redis.zadd(key(EVENT, "expiries"), {booking.booking_id: to_ms(booking.expire_time)})
    await Reconciler(shop.ledger, shop.holds.remind_many).run_once()
    assert await end_of_hold(shop, booking) > booking.expire_time + PAYMENT_PATIENCE


class Memory:
    """What Redis knew of the event: its last write to a disk, or a replica that is behind."""

    def __init__(self, shop: Shop) -> None:
        self._redis = shop.redis
        self._saved: dict[bytes, Any] = {}

    async def save(self) -> None:
        self._saved = {name: await self._redis.dump(name) async for name in self._redis.scan_iter("event:*")}

    async def fall_back(self) -> None:
        await self._redis.flushdb()
        for name, value in self._saved.items():
            await self._redis.restore(name, 0, value)


async def forget_what_was_sold(shop: Shop) -> Booking:
    await shop.reserve(9, [30])
    memory = Memory(shop)
    await memory.save()
    sold = await shop.reserve(1, [0, 1])
    await shop.flow().pay(sold.booking_id, 1, "tok_approve", KEY)
    await shop.sale.execute("UPDATE bookings SET update_time = update_time - INTERVAL 1 MINUTE")
    await memory.fall_back()
    assert await shop.taken() == {30}
    return sold


async def test_one_buyer_at_most_is_refused_for_what_redis_has_forgotten(shop: Shop) -> None:
    await forget_what_was_sold(shop)
    unlucky = await shop.held(2, [1, 2])
    settled = await shop.ledger.commit_reservations([unlucky])
    assert settled[-1].state is BookingState.REJECTED
    await shop.holds.settle_many(settled)
    assert await shop.taken() == {0, 1, 30}
    progress = await shop.holds.progress(EVENT)
    assert progress is not None
    assert (progress.left, progress.sold) == (SEATS - 3, 2)
    assert (await shop.audit()).clean


async def test_what_redis_has_forgotten_is_told_when_everything_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_PAGE_MOST", 2)
    await forget_what_was_sold(shop)
    others = [await shop.reserve(user, [user]) for user in range(10, 15)]
    cancelled = await shop.ledger.cancel(others[0].booking_id, 10)
    reconciler = Reconciler(shop.ledger, shop.holds.remind_many)
    assert await reconciler.run_all_once() == 2 + len(others)
    assert await shop.taken() == {0, 1, 30, 11, 12, 13, 14}
    assert cancelled.state is BookingState.CANCELLED
    assert (await shop.audit()).clean


async def test_the_reconciler_tells_redis_what_it_missed(shop: Shop) -> None:
    (booking,) = await shop.ledger.commit_reservations([shop.sale.command(1, [4, 5])])
    assert await shop.taken() == set()
    reconciler = Reconciler(shop.ledger, shop.holds.remind_many)
    await reconciler.run_once()
    assert await shop.taken() == {4, 5}
    await shop.ledger.cancel(booking.booking_id, 1)
    await reconciler.run_once()
    assert await shop.taken() == set()


async def test_reconciler_and_auditor_read_large_sales_page_by_page(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_PAGE_MOST", 2)
    monkeypatch.setattr(audit, "_OWNERS_MOST", 2)
    # Two bookings of the second person stand on both sides of a page's end.
    people = [1, 2, 2, 3, 4]
    await shop.ledger.commit_reservations(
        [shop.sale.command(who, [seat], f"key-{seat:05}") for seat, who in enumerate(people)]
    )
    assert await Reconciler(shop.ledger, shop.holds.remind_many).run_once() == len(people)
    assert await shop.taken() == {0, 1, 2, 3, 4}
    assert (await shop.audit()).clean
