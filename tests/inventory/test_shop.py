"""What inventory tells of its health: from the real database and the real log, and from what holding took."""

from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from boxoffice.inventory.v1 import shop_service_pb2 as pb
from boxoffice.inventory.v1 import shop_service_pb2_grpc as rpc

from services.common.eventlog import EventLogUnavailable, open_event_log
from services.common.grpc_channel import connect
from services.common.lifecycle import running
from services.common.mysql import Database, DatabaseUnavailable
from services.inventory.settings import InventorySettings
from services.inventory.shop import BACKLOG_AFTER, HoldTimes, ShopHealth, ShopMeter
from services.inventory.wiring import wire_api
from tests.inventory.desk import open_desk
from tests.inventory.shop import Shop
from tests.inventory.test_api import settings, wire
from tests.support import eventually

__all__ = ["settings"]  # a fixture


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_slowest_of_a_hundred_is_spared_and_no_more() -> None:
    times = HoldTimes()
    assert times.p99() is None
    times.note(0.5, 1)
    assert times.p99() == timedelta(seconds=0.5)
    times.note(0.002, 50)
    assert times.p99() == timedelta(seconds=0.002)
    times.note(0.002, 50)
    assert times.p99() == timedelta(seconds=0.002)
    times.note(0.4, 2)
    assert times.p99() == timedelta(seconds=0.4)


def test_everyone_in_a_slow_batch_has_waited_for_it() -> None:
    times = HoldTimes()
    for _ in range(50):
        times.note(0.002, 1)
    times.note(0.3, 5)
    assert times.p99() == timedelta(seconds=0.3)


def test_what_is_older_than_three_seconds_is_forgotten() -> None:
    clock = _Clock()
    times = HoldTimes(clock)
    times.note(0.3, 5)
    clock.now += 2.9
    times.note(0.001, 5)
    assert times.p99() == timedelta(seconds=0.3)
    clock.now += 0.2
    assert times.p99() == timedelta(seconds=0.001)
    clock.now += 3.0
    assert times.p99() is None


async def test_holding_is_timed_by_the_batch(inventory_db: Database, redis_url: str) -> None:
    async with open_desk(inventory_db, redis_url) as desk:
        await desk.reservations.reserve_many([desk.wish(user, user) for user in range(1, 4)])
        took = desk.hold_times.p99()
    assert took is not None
    assert timedelta() < took < timedelta(seconds=5)


async def test_the_backlog_is_that_of_old_intents(shop: Shop) -> None:
    for user in (1, 2, 3):
        booking = await shop.reserve(user, [user])
        await shop.flow(timedelta(milliseconds=50)).pay(booking.booking_id, user, "tok_timeout", f"pay-{user:05}")
    assert await shop.payments() == ["INTENT"] * 3
    assert await shop.ledger.unanswered_payments(BACKLOG_AFTER) == 0
    old = "UPDATE payments SET create_time = UTC_TIMESTAMP(6) - INTERVAL 6 SECOND WHERE payment_id IN (%s, %s)"
    first, second, _ = [row[0] for row in await shop.sale.rows("SELECT payment_id FROM payments ORDER BY payment_id")]
    await shop.sale.execute(old, first, second)
    assert await shop.ledger.unanswered_payments(BACKLOG_AFTER) == 2
    await shop.sale.execute("UPDATE payments SET state = 'CAPTURED' WHERE payment_id = %s", first)
    assert await shop.ledger.unanswered_payments(BACKLOG_AFTER) == 1


async def test_intents_are_found_by_an_index(shop: Shop) -> None:
    # The optimizer reads a table of a few rows as a whole, whatever indexes there are.
    rows = await shop.sale.rows(
        "EXPLAIN SELECT COUNT(*) FROM payments FORCE INDEX (payments_to_complete) "
        "WHERE state = 'INTENT' AND create_time <= UTC_TIMESTAMP(6)"
    )
    assert rows[0][5] == "payments_to_complete"


async def test_records_that_no_worker_has_committed_are_the_lag(kafka_url: str) -> None:
    topic, group = f"lag-{uuid4().hex[:8]}", f"group-{uuid4().hex[:8]}"
    async with open_event_log(kafka_url) as log:
        await log.create_topics({topic: 2})
        async with log.writer() as writer:
            await writer.append_many(topic, [(str(key), b"x", {}) for key in range(7)])
        meter = ShopMeter(HoldTimes(), partial(log.lag, group, topic), _nothing)

        async def lag_is(records: int) -> bool:
            await meter.collect()
            return meter.health == ShopHealth(None, records, 0)

        # A broker that has just started cannot tell of groups yet.
        await eventually(partial(lag_is, 7))
        async with log.reader(group, [topic]) as reader:
            read = 0
            while read < 7:
                read += len(await reader.read(10, timedelta(seconds=1)))
            await reader.commit()
        await eventually(partial(lag_is, 0))


async def _nothing() -> int:
    return 0


async def _log_is_away() -> int:
    raise EventLogUnavailable


async def _database_is_away() -> int:
    raise DatabaseUnavailable


async def _is_broken() -> int:
    raise ZeroDivisionError


@pytest.mark.parametrize("away", [_log_is_away, _database_is_away, _is_broken])
async def test_a_figure_that_cannot_be_had_is_absent_and_keeps_none_back(away: object) -> None:
    times = HoldTimes()
    times.note(0.01, 1)
    first = ShopMeter(times, away, _nothing)  # type: ignore[arg-type] # one of the above
    second = ShopMeter(times, _nothing, away)  # type: ignore[arg-type] # one of the above
    first.health = second.health = ShopHealth(None, 9, 9)
    await first.collect()
    await second.collect()
    assert first.health == ShopHealth(timedelta(seconds=0.01), None, 0)
    assert second.health == ShopHealth(timedelta(seconds=0.01), 0, None)


async def test_the_api_answers_it_to_callers_of_the_house_without_an_account(settings: InventorySettings) -> None:
    async with (
        running(partial(wire, wire_api, settings), 1) as api,
        connect(f"127.0.0.1:{api.addresses['grpc_port']}") as channel,
    ):
        stub: rpc.ShopServiceAsyncStub = rpc.ShopServiceStub(channel)

        async def collected() -> bool:
            answer = await stub.GetShopHealth(pb.GetShopHealthRequest())
            assert not answer.HasField("hold_latency_p99")
            return answer.HasField("event_log_lag") and answer.HasField("payment_backlog")

        await eventually(collected)
        answer = await stub.GetShopHealth(pb.GetShopHealthRequest())
        assert (answer.event_log_lag, answer.payment_backlog) == (0, 0)
