"""From a wish to a promise: what is checked, what is held, what is in the event log, and what a crash leaves behind."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway

from services.common.errors import Unavailable, describe
from services.common.keyring import KeyRing
from services.common.mysql import Database, DatabaseUnavailable
from services.inventory import domain, seatmap
from services.inventory.availability import Availability, Picture
from services.inventory.catalog import Catalog
from services.inventory.domain import BookingState, ticket_id
from services.inventory.holds import HoldOutcome, HoldRequest
from services.inventory.mirror import promised_before
from services.inventory.reservation import Reservations
from services.inventory.wishes import Wish
from services.inventory.worker import parse
from tests.inventory.desk import KEYS, Desk, admission, event, open_desk


@pytest.fixture
async def desk(inventory_db: Database, redis_url: str) -> AsyncIterator[Desk]:
    async with open_desk(inventory_db, redis_url) as opened:
        yield opened


async def held(desk: Desk, *wishes: Wish) -> list[domain.Booking]:
    outcomes = await desk.reservations.reserve_many(wishes)
    assert all(isinstance(outcome, HoldOutcome) for outcome in outcomes), outcomes
    return [outcome.booking for outcome in outcomes if isinstance(outcome, HoldOutcome)]


async def refusal(desk: Desk, wish: Wish) -> str:
    (outcome,) = await desk.reservations.reserve_many([wish])
    assert isinstance(outcome, Exception)
    return describe(outcome).reason


async def test_what_is_promised_is_in_the_log_one_record_for_the_batch(desk: Desk) -> None:
    bookings = await held(desk, desk.wish(1, 3, 2), desk.wish(2, best=2))
    assert [booking.state for booking in bookings] == [BookingState.PENDING] * 2
    (record,) = desk.log.records
    assert record.key == str(desk.event_id)
    first, second = desk.log.commands
    assert (first.booking_id, list(first.seat_indexes)) == (bookings[0].booking_id, [2, 3])
    assert first.amount.amount == 2 * 99_000
    assert tuple(second.seat_indexes) == bookings[1].seat_indexes


async def test_the_worker_makes_it_durable(desk: Desk) -> None:
    (booking,) = await held(desk, desk.wish(1, 3))
    await desk.work()
    (known,) = await desk.holds.read_many([(desk.event_id, booking.booking_id)])
    assert known is not None
    assert known.state is BookingState.RESERVED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"admission_token": ""}, "ADMISSION_REQUIRED"),
        ({"admission_token": "k1.forged.token"}, "ADMISSION_INVALID"),
        ({"user_id": 2}, "ADMISSION_INVALID"),
        ({"event_id": 999}, "ADMISSION_INVALID"),
        ({"ticket_ids": ()}, "INVALID_ARGUMENT"),
        ({"quantity": 2}, "INVALID_ARGUMENT"),
        ({"ticket_ids": (), "quantity": 9}, "INVALID_ARGUMENT"),
        ({"ticket_ids": (), "quantity": 1, "section": "nowhere"}, "INVALID_ARGUMENT"),
        ({"ticket_ids": tuple(range(9))}, "INVALID_ARGUMENT"),
        ({"ticket_ids": (ticket_id(1, 3), ticket_id(1, 3))}, "INVALID_ARGUMENT"),
        ({"ticket_ids": (ticket_id(1, 40),)}, "TICKET_NOT_FOUND"),
        ({"ticket_ids": (ticket_id(2, 3),)}, "TICKET_NOT_FOUND"),
        ({"ticket_ids": (-1,)}, "TICKET_NOT_FOUND"),
        ({"ticket_ids": tuple(ticket_id(1, seat) for seat in range(5))}, "TICKET_LIMIT"),
    ],
)
async def test_what_may_not_be_reserved(desk: Desk, changes: dict[str, Any], reason: str) -> None:
    assert desk.event_id == 1
    assert await refusal(desk, replace(desk.wish(1, 3), **changes)) == reason
    assert desk.log.records == []


async def test_an_admission_for_another_event_or_signed_by_someone_else_opens_nothing(desk: Desk) -> None:
    later = desk.clock.now() + timedelta(minutes=5)
    foreign = admission(1, desk.event_id, later, KeyRing({"k1": b"x" * 32}))
    for token in (foreign, admission(1, desk.event_id + 1, later)):
        assert await refusal(desk, replace(desk.wish(1, 3), admission_token=token)) == "ADMISSION_INVALID"


async def test_an_admission_ends_at_its_time(desk: Desk) -> None:
    wish = desk.wish(1, 3)
    desk.clock.advance(timedelta(minutes=5))
    assert await refusal(desk, wish) == "ADMISSION_INVALID"


async def test_an_unknown_event_is_not_found(desk: Desk) -> None:
    token = admission(1, 999, desk.clock.now() + timedelta(minutes=5))
    wish = replace(desk.wish(1, 3), event_id=999, admission_token=token)
    assert await refusal(desk, wish) == "EVENT_NOT_FOUND"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sale_open_time": datetime.now(tz=UTC) + timedelta(hours=1)}, "SALE_NOT_OPEN"),
        ({"sale_close_time": datetime.now(tz=UTC) - timedelta(hours=1)}, "SALE_CLOSED"),
        ({"published": False}, "EVENT_NOT_FOUND"),
    ],
)
async def test_only_an_open_sale_sells(
    inventory_db: Database, redis_url: str, changes: dict[str, Any], reason: str
) -> None:
    async with open_desk(inventory_db, redis_url, sale=event(**changes)) as desk:
        assert await refusal(desk, desk.wish(1, 3)) == reason


async def test_a_repeat_gets_its_first_answer_also_when_sale_seats_and_admission_are_gone(desk: Desk) -> None:
    first = desk.wish(1, best=2)
    (booking,) = await held(desk, first)
    await held(desk, *(desk.wish(user, best=2) for user in range(2, 21)))
    assert await refusal(desk, desk.wish(99, best=2)) == "SOLD_OUT"
    for wait in (timedelta(), timedelta(minutes=6), timedelta(days=2)):
        desk.clock.advance(wait)
        (again,) = await desk.reservations.reserve_many([first])
        assert again == HoldOutcome(booking, repeat=True)


async def test_a_key_with_another_request_is_a_conflict(desk: Desk) -> None:
    await held(desk, desk.wish(1, 3))
    assert await refusal(desk, desk.wish(1, 4)) == "IDEMPOTENCY_KEY_REUSED"
    await held(desk, desk.wish(1, 4, key="key-00002"), desk.wish(2, 5))


async def test_a_repeat_in_the_same_batch_is_one_command(desk: Desk) -> None:
    first, second = await held(desk, desk.wish(1, 3), desk.wish(1, 3))
    assert first == second
    assert len(desk.log.commands) == 1


async def test_a_durable_booking_is_not_appended_again_and_a_pending_one_is(desk: Desk) -> None:
    await held(desk, desk.wish(1, 3))
    await held(desk, desk.wish(1, 3))
    assert len(desk.log.commands) == 2, "the first append may have been lost"
    await desk.work()
    (booking,) = await held(desk, desk.wish(1, 3))
    assert booking.state is BookingState.RESERVED
    assert len(desk.log.commands) == 2


async def test_what_the_log_does_not_take_is_released_and_told_to_everyone(desk: Desk) -> None:
    desk.log.fails = True
    outcomes = await desk.reservations.reserve_many([desk.wish(1, 3), desk.wish(2, best=2)])
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    progress, _ = await desk.holds.seats(desk.event_id)
    assert progress.left == 40
    desk.log.fails = False
    await held(desk, desk.wish(9, 3))


async def test_a_repeat_after_such_a_failure_works(desk: Desk) -> None:
    desk.log.fails = True
    assert await refusal(desk, desk.wish(1, 3)) == "UNAVAILABLE"
    desk.log.fails = False
    await held(desk, desk.wish(1, 3))
    await desk.work()
    assert [each.seat_indexes for each in await desk.ledger.live_bookings(desk.event_id)] == [(3,)]


async def test_a_record_that_was_written_although_the_append_failed_does_no_harm(desk: Desk) -> None:
    desk.log.fails = desk.log.writes_all_the_same = True
    assert await refusal(desk, desk.wish(1, 3)) == "UNAVAILABLE"
    desk.log.fails = False
    await held(desk, desk.wish(2, 3), desk.wish(3, 5))
    await desk.work()
    live = {each.user_id: each.seat_indexes for each in await desk.ledger.live_bookings(desk.event_id)}
    assert live == {1: (3,), 3: (5,)}
    _, bitmap = await desk.holds.seats(desk.event_id)
    assert bitmap[0] == 0b00010100


async def test_an_event_that_cannot_be_looked_at_does_not_stop_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await desk.catalog.add(event(), seatmap.generated_document(1))
    await desk.availability.picker(other)  # one seat is free in it
    await held(desk, desk.wish(9, 0, event_id=other))
    picture = desk.availability.picture

    async def away(event_id: int, *, newest: bool = False) -> Picture:
        if newest:
            raise DatabaseUnavailable
        return await picture(event_id)

    monkeypatch.setattr(desk.availability, "picture", away)
    good, bad = await desk.reservations.reserve_many([desk.wish(1, 0), desk.wish(2, best=1, event_id=other)])
    assert isinstance(good, HoldOutcome)
    assert isinstance(bad, DatabaseUnavailable)
    assert desk.log.commands[-1].booking_id == good.booking.booking_id


async def test_what_was_held_is_promised_although_redis_goes_away_before_the_next_round(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_many, rounds = desk.holds.hold_many, iter(range(9))

    async def away(requests: Sequence[HoldRequest]) -> list[HoldOutcome | Exception]:
        if next(rounds):
            raise RedisAway
        return [*await hold_many(requests[:1]), domain.SeatsTaken([], seats_left=1)]

    monkeypatch.setattr(desk.holds, "hold_many", away)
    good, bad = await desk.reservations.reserve_many([desk.wish(1, 0), desk.wish(2, best=1)])
    assert isinstance(good, HoldOutcome)
    assert isinstance(bad, RedisAway)
    assert [command.booking_id for command in desk.log.commands] == [good.booking.booking_id]


async def test_what_was_held_is_promised_although_repeats_cannot_be_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> list[domain.Booking | None]:
        raise RedisAway

    monkeypatch.setattr(desk.holds, "read_many", away)
    late = replace(desk.wish(2, 1), admission_token=admission(2, desk.event_id, desk.clock.now()))
    good, bad = await desk.reservations.reserve_many([desk.wish(1, 0), late])
    assert isinstance(good, HoldOutcome)
    assert isinstance(bad, RedisAway)
    assert [command.booking_id for command in desk.log.commands] == [good.booking.booking_id]


async def test_reservations_go_on_while_mysql_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await held(desk, desk.wish(1, 0), desk.wish(2, best=1))

    def away() -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as outage:
        outage.setattr(desk.catalog._db, "transaction", away)
        for catalog_age in (timedelta(seconds=3), timedelta(minutes=9)):
            grow_old(desk.catalog, catalog_age)
            await held(desk, desk.wish(3, 1), desk.wish(4, best=2))
        grow_old(desk.catalog, timedelta(minutes=2))  # eleven in all: who knows what the sale is by now
        assert await refusal(desk, desk.wish(5, 6)) == "UNAVAILABLE"
    await held(desk, desk.wish(5, 6))
    await desk.work()
    assert len(await desk.ledger.live_bookings(desk.event_id)) == 5


def grow_old(catalog: Catalog, age: timedelta) -> None:
    """Lets time pass for what the catalog knows of events; seat maps do not change."""
    values, seconds = catalog._sales._values, age.total_seconds()
    for event_id, known in list(values.items()):
        values[event_id] = replace(known, read_at=known.read_at - seconds, asked_at=known.asked_at - seconds)


async def test_what_was_promised_is_noted_and_what_was_not_is_not(desk: Desk) -> None:
    desk.log.fails = True
    assert await refusal(desk, desk.wish(1, 3)) == "UNAVAILABLE"
    desk.log.fails = False
    (booking,) = await held(desk, desk.wish(2, 4))
    await desk.reservations.aclose()
    later = datetime.now(tz=UTC) + timedelta(minutes=1)
    assert list(await promised_before(desk.redis, desk.event_id, later)) == [booking.booking_id]
    await desk.work()
    assert await promised_before(desk.redis, desk.event_id, later) == {}


async def test_seats_that_were_told_stay_those_when_redis_is_lost_before_they_are_durable(desk: Desk) -> None:
    (told,) = await held(desk, desk.wish(1, best=2))
    await desk.redis.flushdb()
    await held(desk, desk.wish(2, best=2))
    (other,) = await held(desk, desk.wish(1, best=2))
    assert other.seat_indexes != told.seat_indexes, "nobody remembers"
    bookings = [command for record in desk.log.records for command in parse(record)]
    await desk.holds.settle_many(await desk.ledger.commit_reservations(bookings))
    (stored,) = [each for each in await desk.ledger.live_bookings(desk.event_id) if each.user_id == 1]
    assert stored.seat_indexes == told.seat_indexes


async def test_after_a_crash_between_hold_and_log_the_hold_ends_or_its_repeat_is_recorded(desk: Desk) -> None:
    class KilledError(BaseException):
        pass

    async def die(*_: object) -> None:
        raise KilledError

    append = desk.log.append
    desk.log.append = die  # type: ignore[method-assign,assignment] # the process ends here
    with pytest.raises(KilledError):
        await desk.reservations.reserve_many([desk.wish(1, 3), desk.wish(2, 4)])
    desk.log.append = append  # type: ignore[method-assign] # another process goes on
    assert desk.log.records == []

    (repeated,) = await held(desk, desk.wish(1, 3))
    assert [command.booking_id for command in desk.log.commands] == [repeated.booking_id]

    lost = desk.wish(2, 4).booking_id
    await desk.redis.zadd(f"event:{{{desk.event_id}}}:expiries", {lost: 0})
    await held(desk, desk.wish(3, 4))


async def test_all_of_redis_may_vanish_in_the_middle(desk: Desk) -> None:
    await held(desk, desk.wish(1, 0, 1), desk.wish(2, 2))
    await desk.work()
    await desk.redis.flushdb()
    assert await refusal(desk, desk.wish(3, 1)) == "SEATS_TAKEN"
    (best,) = await held(desk, desk.wish(4, best=2))
    assert not {0, 1, 2} & set(best.seat_indexes)
    (again,) = await desk.reservations.reserve_many([desk.wish(2, 2)])
    assert isinstance(again, HoldOutcome)
    assert (again.repeat, again.booking.state) == (True, BookingState.RESERVED)


async def test_best_available_fills_the_hall_to_the_last_seat_and_says_what_is_missing(desk: Desk) -> None:
    await held(desk, *(desk.wish(user, best=2) for user in range(1, 20)))
    await held(desk, desk.wish(50, best=1))
    assert await refusal(desk, desk.wish(51, best=2)) == "NO_ADJACENT_SEATS"
    await held(desk, desk.wish(52, best=1))
    assert await refusal(desk, desk.wish(53, best=1)) == "SOLD_OUT"


async def test_best_available_goes_round_what_another_process_has_taken_meanwhile(
    inventory_db: Database, redis_url: str
) -> None:
    async with open_desk(inventory_db, redis_url) as desk:
        await desk.availability.picture(desk.event_id)
        other = Reservations(
            desk.catalog,
            Availability(desk.catalog, desk.holds),
            desk.holds,
            desk.log,
            admission_keys=KEYS,
            clock=desk.clock,
            hold_times=desk.hold_times,
        )
        outcomes = await other.reserve_many([desk.wish(user, best=2) for user in range(1, 20)])
        taken = {seat for each in outcomes if isinstance(each, HoldOutcome) for seat in each.booking.seat_indexes}
        (booking,) = await held(desk, desk.wish(77, best=2))
        assert taken | set(booking.seat_indexes) == set(range(40))


async def test_prices_are_those_of_the_sections(inventory_db: Database, redis_url: str) -> None:
    async with open_desk(inventory_db, redis_url, document=seatmap.hall_document("club")) as desk:
        (booking,) = await held(desk, desk.wish(1, 39, 40))
        assert booking.amount == domain.Money(110_000, "KRW")
        (bar,) = await held(desk, desk.wish(2, best=2, section="B"))
        assert bar.amount.amount == 88_000
