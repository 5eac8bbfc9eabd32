"""The auditor sees each kind of damage, and nothing where there is none."""

import argparse
import asyncio

import orjson
import pytest

from services.common import metrics
from services.inventory.audit import Audit, Kind, export, lines
from services.inventory.audit_command import add_arguments, main_audit
from services.inventory.domain import Booking
from services.inventory.holds import key
from services.inventory.settings import AuditSettings
from tests.inventory.sale import EVENT
from tests.inventory.shop import KEY, Shop


async def busy(shop: Shop) -> tuple[Booking, Booking]:
    """A booking that is paid and one that is not."""
    paid = await shop.reserve(1, [0, 1])
    await shop.flow().pay(paid.booking_id, 1, "tok_approve", KEY)
    return paid, await shop.reserve(2, [2, 3])


async def test_a_busy_sale_is_clean(shop: Shop) -> None:
    await busy(shop)
    report = await shop.audit()
    assert report.findings == ()
    assert set(report.counts().values()) == {0}


DAMAGE = {
    "a seat given away twice": (
        "UPDATE tickets SET booking_id = %(other)s WHERE booking_id = %(paid)s LIMIT 1",
        {Kind.OVERSOLD: 1},
    ),
    "a sold seat for a booking that has ended": (
        "UPDATE bookings SET state = 'EXPIRED' WHERE booking_id = %(other)s",
        {Kind.LEAKED: 2},
    ),
    "a booking that is over and was not swept": (
        "UPDATE bookings SET expire_time = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND WHERE booking_id = %(other)s",
        {Kind.LEAKED: 2},
    ),
    "a ticket of a booking that is gone": ("DELETE FROM bookings WHERE booking_id = %(other)s", {Kind.LEAKED: 2}),
    "money kept for an expired booking": (
        "UPDATE bookings SET state = 'EXPIRED' WHERE booking_id = %(paid)s",
        {Kind.PAID_WITHOUT_TICKET: 1},
    ),
    "money kept without a payment": ("DELETE FROM payments", {Kind.PAID_WITHOUT_TICKET: 1}),
    "money given back twice": (
        "UPDATE dummy_charges SET refunds = 2",
        {Kind.PAID_WITHOUT_TICKET: 1},
    ),
    "a payment without an end": ("UPDATE payments SET state = 'INTENT'", {Kind.UNDECIDED: 1}),
    "a ticket without money": ("DELETE FROM dummy_charges", {Kind.MISMATCH: 1}),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
async def test_damage_in_the_tables_is_found(shop: Shop, damage: str, expected: dict[Kind, int]) -> None:
    paid, other = await busy(shop)
    async with shop.sale.db.transaction() as tx:
        await tx.execute(damage, {"paid": paid.booking_id, "other": other.booking_id})
    counts = (await shop.audit()).counts()
    assert {kind: counts[kind] for kind in expected} == expected


async def test_a_seat_that_redis_keeps_for_nobody_is_found(shop: Shop) -> None:
    await busy(shop)
    await shop.redis.setbit(key(EVENT, "seats"), 20, 1)
    findings = (await shop.audit()).findings
    assert [(each.kind, each.subject) for each in findings] == [(Kind.LEAKED, "seat 20")]


async def test_a_sold_seat_that_redis_would_sell_is_found(shop: Shop) -> None:
    paid, _ = await busy(shop)
    await shop.redis.hdel(key(EVENT, "owners"), "0")
    await shop.redis.setbit(key(EVENT, "seats"), 0, 0)
    patient = Audit(shop.sale.db, shop.redis)
    assert (await patient.run(EVENT)).clean  # it may be on its way to Redis
    await shop.sale.execute("UPDATE bookings SET update_time = update_time - INTERVAL 1 MINUTE")
    assert not (await patient.run(EVENT)).clean
    findings = (await shop.audit()).findings
    assert [(each.kind, each.subject) for each in findings] == [(Kind.MISMATCH, "seat 0")]
    assert paid.booking_id in findings[0].detail


async def undecided(shop: Shop) -> list[str]:
    findings = (await shop.audit()).findings
    assert {each.kind for each in findings} <= {Kind.UNDECIDED}
    return [each.subject for each in findings]


async def test_a_promise_that_nobody_decides_is_found_for_as_long_as_nobody_does(shop: Shop) -> None:
    promised, untold = await shop.held(3, [9]), await shop.held(4, [10])
    await shop.holds.promise(EVENT, [promised.booking_id])
    assert await undecided(shop) == [promised.booking_id]
    assert (await Audit(shop.sale.db, shop.redis).run(EVENT)).clean  # it is young
    await shop.redis.zadd(key(EVENT, "expiries"), {promised.booking_id: 0, untold.booking_id: 0})
    await shop.holds.reap(EVENT)
    assert await shop.taken() == set()
    assert await undecided(shop) == [promised.booking_id]
    await shop.holds.settle_many(await shop.ledger.commit_reservations([promised]))
    assert await undecided(shop) == []
    assert await shop.redis.exists(key(EVENT, "promised")) == 0


async def test_a_promise_that_was_decided_before_it_was_noted_is_none(shop: Shop) -> None:
    decided = await shop.reserve(3, [9])
    await shop.holds.promise(EVENT, [decided.booking_id])
    assert await undecided(shop) == []
    assert await shop.redis.exists(key(EVENT, "promised")) == 0


async def test_a_promise_is_kept_although_redis_forgets_that_it_was_decided(shop: Shop) -> None:
    held = await shop.held(3, [9])
    await shop.holds.promise(EVENT, [held.booking_id])
    await shop.ledger.commit_reservations([held])
    assert await undecided(shop) == []


async def test_the_numbers_are_metrics_and_lines(shop: Shop) -> None:
    _, other = await busy(shop)
    await shop.sale.execute("UPDATE bookings SET state = 'EXPIRED' WHERE booking_id = %s", other.booking_id)
    report = await shop.audit()
    export(report)
    assert metrics.LEAKED_HOLDS._value.get() == 2
    *_, summary = lines(report)
    assert summary.startswith("1 events: oversold 0, leaked 2,")
    export(await Audit(shop.sale.db, shop.redis).run(EVENT + 1))
    assert metrics.LEAKED_HOLDS._value.get() == 0


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


async def test_who_knows_that_the_sale_is_over_asks_without_grace(
    shop: Shop, inventory_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = AuditSettings(mysql_url=inventory_url, redis_url=redis_url)
    await busy(shop)
    await shop.sale.execute("UPDATE bookings SET state = 'EXPIRED' WHERE state = 'CONFIRMED'")
    await shop.sale.execute("UPDATE tickets SET status = 'AVAILABLE', booking_id = NULL WHERE status = 'SOLD'")
    await shop.redis.flushdb()  # nothing but the money is left to tell of it
    assert await asyncio.to_thread(main_audit, settings, parsed("--json")) == 0
    assert set(Kind) < set(orjson.loads(capsys.readouterr().out))
    over = parsed("--json", "--grace", "0", "--money-grace", "0")
    assert await asyncio.to_thread(main_audit, settings, over) == 1
    assert orjson.loads(capsys.readouterr().out)["paid_without_ticket"] == 1
    for wrong in ("-1", "nan", "soon"):
        with pytest.raises(SystemExit):
            parsed("--grace", wrong)


async def test_the_command_prints_what_differs_and_says_so_by_its_status(
    shop: Shop, inventory_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = AuditSettings(mysql_url=inventory_url, redis_url=redis_url)
    everything = parsed("--json")
    paid, _ = await busy(shop)
    assert await asyncio.to_thread(main_audit, settings, everything) == 0
    assert orjson.loads(capsys.readouterr().out)["clean"] is True
    await shop.sale.execute("UPDATE tickets SET status = 'RESERVED' WHERE booking_id = %s", paid.booking_id)
    assert await asyncio.to_thread(main_audit, settings, everything) == 1
    assert orjson.loads(capsys.readouterr().out)["findings"][0]["subject"] == paid.booking_id
    assert await asyncio.to_thread(main_audit, settings, parsed("--event", str(EVENT))) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 events: oversold 0")
