"""The batch worker: from the event log to MySQL and Redis, each record until it is done."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from boxoffice.inventory.v1 import money_pb2
from redis.exceptions import ConnectionError as RedisAway

from services.common.eventlog import EventLog, Poison, Record, consume, open_event_log, topics
from services.inventory.domain import Booking, BookingState
from services.inventory.worker import GROUP, ProgressPublisher, ReservationWorker, parse
from tests.inventory.sale import EVENT, SEATS
from tests.inventory.shop import Shop
from tests.support import eventually

_SOON = timedelta(seconds=1)


def encoded(commands: Sequence[Booking]) -> bytes:
    return events_pb.ReserveCommands(commands=[_command(each) for each in commands]).SerializeToString()


def _command(booking: Booking) -> events_pb.ReserveCommand:
    command = events_pb.ReserveCommand(
        booking_id=booking.booking_id,
        event_id=booking.event_id,
        user_id=booking.user_id,
        seat_indexes=booking.seat_indexes,
        amount=money_pb2.Money(amount=booking.amount.amount, currency="KRW"),
        request_hash=booking.request_hash,
        traceparent=booking.traceparent,
    )
    command.hold_time.FromDatetime(booking.create_time)
    command.expire_time.FromDatetime(booking.expire_time)
    return command


def record(commands: Sequence[Booking]) -> Record:
    return Record(topics.BOOKING_COMMANDS, str(EVENT), encoded(commands))


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[EventLog]:
    async with open_event_log(redis_url) as opened:
        await opened.create_topics(topics.TOPICS)
        yield opened


def test_a_record_carries_bookings_unchanged(shop: Shop) -> None:
    commands = [shop.sale.command(1, [0, 1]), shop.sale.command(2, [2])]
    assert parse(record(commands)) == commands


async def test_several_records_commit_in_one_transaction(shop: Shop) -> None:
    worker = ReservationWorker(shop.ledger, shop.holds.settle_many, shop.nudge)
    records = [record([shop.sale.command(user, [user])]) for user in range(1, 11)]
    await worker.handle(records)
    assert await shop.sale.rows("SELECT COUNT(*) FROM outbox") == [(1,)]
    assert await shop.taken() == set(range(1, 11))
    assert shop.nudges == 1


async def test_what_redis_was_not_told_is_told_at_redelivery(shop: Shop) -> None:
    away = True

    async def settle(bookings: list[Booking]) -> None:
        if away:
            raise RedisAway
        await shop.holds.settle_many(bookings)

    worker = ReservationWorker(shop.ledger, settle, shop.nudge)
    records = [record([shop.sale.command(1, [0]), shop.sale.command(2, [0])])]
    with pytest.raises(RedisAway):
        await worker.handle(records)
    assert await shop.taken() == set()
    away = False
    await worker.handle(records)
    assert await shop.taken() == {0}
    assert await shop.sale.rows("SELECT state, COUNT(*) FROM bookings GROUP BY state ORDER BY state") == [
        ("RESERVED", 1),
        ("REJECTED", 1),
    ]


async def test_poison_is_put_aside_and_the_rest_goes_on(shop: Shop, log: EventLog) -> None:
    worker = ReservationWorker(shop.ledger, shop.holds.settle_many, shop.nudge)
    good = shop.sale.command(1, [3])
    nameless = events_pb.ReserveCommands(commands=[events_pb.ReserveCommand(event_id=EVENT)]).SerializeToString()
    async with log.writer() as writer:
        for value in (b"\xff not a message", nameless, encoded([good])):
            await writer.append(topics.BOOKING_COMMANDS, str(EVENT), value, {})
    consuming = asyncio.create_task(consume(log, GROUP, [topics.BOOKING_COMMANDS], worker.handle))
    try:
        stored = await eventually(lambda: shop.ledger.booking(good.booking_id, 1))
        assert stored is not None
        assert stored.state is BookingState.RESERVED
        await eventually(lambda: _all_read(log))
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert await log.lag("reader-of-the-dead", topics.dead(topics.BOOKING_COMMANDS)) == 2


async def _all_read(log: EventLog) -> bool:
    return await log.lag(GROUP, topics.BOOKING_COMMANDS) == 0


def test_a_command_without_seats_is_poison() -> None:
    value = events_pb.ReserveCommands(commands=[events_pb.ReserveCommand(booking_id="7-x")]).SerializeToString()
    with pytest.raises(Poison):
        parse(Record(topics.BOOKING_COMMANDS, "7", value))


async def test_progress_is_told_when_it_has_changed(shop: Shop, log: EventLog) -> None:
    async with log.writer() as writer, log.reader("queue", [topics.SALE_PROGRESS]) as reader:
        publisher = ProgressPublisher(shop.ledger, shop.holds, writer)
        open_events = await shop.ledger.open_events()
        told = [await publisher.publish(open_events), await publisher.publish(open_events)]
        await shop.reserve(1, [0, 1])
        told.append(await publisher.publish(open_events))
        assert told == [1, 0, 1]
        records = await eventually(lambda: reader.read(10, _SOON))
    left = [events_pb.SaleProgress.FromString(each.value).seats_left for each in records]
    assert left == [SEATS, SEATS - 2]
