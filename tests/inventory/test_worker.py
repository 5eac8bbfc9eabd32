"""The batch worker: from the event log to MySQL and Redis, each record until it is done."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from boxoffice.inventory.v1 import money_pb2
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisAway

from services.common.eventlog import (
    EventLog,
    EventLogReader,
    EventLogWriter,
    Poison,
    Record,
    consume,
    open_event_log,
    topics,
)
from services.inventory.domain import Booking, BookingState
from services.inventory.holds import key
from services.inventory.settings import InventorySettings
from services.inventory.wiring import replay_dead_letters
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


def command_with(shop: Shop, **changes: Any) -> bytes:
    command = _command(shop.sale.command(1, [0]))
    for name, value in changes.items():
        if name == "amount":
            command.amount.CopyFrom(value)
        else:
            setattr(command, name, value)
    return events_pb.ReserveCommands(commands=[command]).SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [
        {"booking_id": "7-한"},
        {"booking_id": "7-" + "é" * 26},
        {"booking_id": "x" * 60},
        {"booking_id": "f" * 5000 + "-" + "a" * 26},
        {"event_id": 8},
        {"amount": money_pb2.Money(amount=1, currency="원화요")},
    ],
    ids=["hangul", "accents", "long", "of no event", "of another event", "currency"],
)
def test_a_command_that_mysql_could_not_take_is_poison(shop: Shop, changes: dict[str, Any]) -> None:
    with pytest.raises(Poison):
        parse(Record(topics.BOOKING_COMMANDS, "7", command_with(shop, **changes)))


async def test_a_strange_trace_costs_nobody_a_booking(shop: Shop) -> None:
    worker = ReservationWorker(shop.ledger, shop.holds.settle_many, shop.nudge)
    for trace in ("한국", "0" * 100):
        await worker.handle([Record(topics.BOOKING_COMMANDS, "7", command_with(shop, traceparent=trace))])
    assert await shop.taken() == {0}


async def test_dead_letters_come_back_when_the_worker_can_take_them(
    shop: Shop, log: EventLog, inventory_url: str, redis_url: str
) -> None:
    good = shop.sale.command(1, [3])
    async with log.writer() as writer:
        dead = topics.dead(topics.BOOKING_COMMANDS)
        await writer.append(dead, str(EVENT), encoded([good]), {"dead-error": "LedgerBroken"})
    settings = InventorySettings(
        mysql_url=inventory_url,
        redis_url=redis_url,
        eventlog_url=redis_url,
        auth_target="127.0.0.1:1",
        admission_keys=SecretStr("k1:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="),
    )
    assert await replay_dead_letters(settings) == 1
    worker = ReservationWorker(shop.ledger, shop.holds.settle_many, shop.nudge)
    consuming = asyncio.create_task(consume(log, GROUP, [topics.BOOKING_COMMANDS], worker.handle))
    try:
        stored = await eventually(lambda: shop.ledger.booking(good.booking_id, 1))
        assert stored is not None
        assert stored.state is BookingState.RESERVED
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert await replay_dead_letters(settings) == 0


class Told:
    """A publisher and what queue hears of it."""

    def __init__(self, shop: Shop, writer: EventLogWriter, reader: EventLogReader) -> None:
        self._shop = shop
        self._writer = writer
        self._reader = reader

    def publisher(self, **options: Any) -> ProgressPublisher:
        return ProgressPublisher(self._shop.ledger, self._shop.holds, self._writer, **options)

    async def left(self) -> list[int]:
        records = await eventually(lambda: self._reader.read(10, _SOON))
        return [events_pb.SaleProgress.FromString(each.value).seats_left for each in records]


@pytest.fixture
async def told(shop: Shop, log: EventLog) -> AsyncIterator[Told]:
    async with log.writer() as writer, log.reader("queue", [topics.SALE_PROGRESS]) as reader:
        yield Told(shop, writer, reader)


async def test_a_new_sale_is_told_before_anybody_has_asked_for_its_seats(shop: Shop, told: Told) -> None:
    await shop.redis.delete(key(EVENT, "counts"))
    await shop.sale.execute("UPDATE events SET sale_open_time = UTC_TIMESTAMP(6) + INTERVAL 30 SECOND")
    assert await told.publisher().publish(await shop.ledger.open_events()) == 1
    assert await told.left() == [SEATS]


async def test_a_sale_whose_numbers_redis_has_lost_is_told_again(shop: Shop, told: Told) -> None:
    await shop.reserve(1, [0, 1])
    publisher = told.publisher()
    await publisher.publish([EVENT])
    await shop.redis.delete(*[name async for name in shop.redis.scan_iter("event:*")])
    await shop.reserve(2, [2])  # Redis is not told: it does not know the event
    assert await publisher.publish([EVENT]) == 1
    assert await told.left() == [SEATS - 2, SEATS - 3]


async def test_unchanged_numbers_are_told_again_after_a_while(told: Told) -> None:
    for again, expected in ((timedelta(), [1, 1]), (timedelta(hours=1), [1, 0])):
        publisher = told.publisher(again=again)
        assert [await publisher.publish([EVENT]) for _ in range(2)] == expected


async def test_a_sale_that_cannot_be_built_does_not_silence_the_others(
    shop: Shop, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = shop.holds._read_snapshot

    async def away(event_id: int) -> object:
        if event_id != EVENT:
            raise RuntimeError("away")
        return await read(event_id)

    monkeypatch.setattr(shop.holds, "_read_snapshot", away)
    assert await told.publisher().publish([EVENT + 1, EVENT]) == 1


async def test_progress_is_told_when_it_has_changed(shop: Shop, told: Told) -> None:
    publisher = told.publisher()
    open_events = await shop.ledger.open_events()
    counts = [await publisher.publish(open_events), await publisher.publish(open_events)]
    await shop.reserve(1, [0, 1])
    counts.append(await publisher.publish(open_events))
    assert counts == [1, 0, 1]
    assert await told.left() == [SEATS, SEATS - 2]
