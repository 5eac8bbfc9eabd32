"""What holding, settling, lapsing and rebuilding do to the seats."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.inventory.domain import (
    PAYMENT_PATIENCE,
    Booking,
    BookingState,
    IdempotencyKeyReused,
    PaymentState,
    SeatsTaken,
    TicketLimit,
    ticket_id,
)
from services.inventory.holds import GRACE, HoldOutcome
from services.inventory.records import from_ms
from tests.inventory.seats import EVENT, Hall, asks, committed, key, open_hall
from tests.support import eventually


@pytest.fixture
async def hall(redis_url: str) -> AsyncIterator[Hall]:
    async with open_hall(redis_url) as opened:
        yield opened


async def test_the_first_block_that_is_wholly_free_is_taken_and_no_other_seat(hall: Hall) -> None:
    await hall.held(asks(1, [3]))
    booking = await hall.held(asks(2, [2, 3], [4, 5], [6, 7]))
    assert booking.seat_indexes == (4, 5)
    assert booking.amount.amount == 2000
    assert await hall.taken() == {3, 4, 5}
    assert await hall.left() == 17


async def test_when_no_block_is_free_nothing_is_taken_and_the_taken_seats_are_named(hall: Hall) -> None:
    await hall.held(asks(1, [3, 4]))
    (refusal,) = await hall.hold(asks(2, [2, 3, 4]))
    assert isinstance(refusal, SeatsTaken)
    assert refusal.metadata == {"ticket_ids": f"{ticket_id(EVENT, 3)},{ticket_id(EVENT, 4)}"}
    assert refusal.seats_left == 18
    assert await hall.taken() == {3, 4}


async def test_a_repeat_gets_the_first_answer_and_another_request_with_the_key_a_conflict(hall: Hall) -> None:
    first = await hall.held(asks(1, [3]))
    repeat, other = await hall.hold(asks(1, [9]), asks(1, [3], wants="something else"))
    assert repeat == HoldOutcome(first, repeat=True)
    assert isinstance(other, IdempotencyKeyReused)
    assert await hall.taken() == {3}


async def test_a_person_has_no_more_tickets_than_allowed_over_all_bookings(hall: Hall) -> None:
    await hall.held(asks(1, [0, 1, 2]))
    refusal, single = await hall.hold(asks(1, [3, 4], key="key-00002"), asks(1, [5], key="key-00003"))
    assert isinstance(refusal, TicketLimit)
    assert refusal.metadata == {"limit": "4"}
    assert isinstance(single, HoldOutcome)


async def test_a_hold_that_nobody_makes_durable_ends_by_itself(redis_url: str) -> None:
    async with open_hall(redis_url, provisional=timedelta(milliseconds=30)) as hall:
        await hall.held(asks(1, [3]))

        async def another_buyer_gets_it() -> bool:
            (outcome,) = await hall.hold(asks(2, [3]))
            return isinstance(outcome, HoldOutcome)

        assert await eventually(another_buyer_gets_it, within=timedelta(seconds=2))


async def test_a_reserved_booking_outlives_the_provisional_hold(hall: Hall) -> None:
    booking = await hall.held(asks(1, [3]))
    await hall.holds.settle_many([replace(booking, state=BookingState.RESERVED)])
    due = await hall.redis.zscore(key("expiries"), booking.booking_id)
    assert due == booking.expire_time.timestamp() * 1000 + 5000


async def test_a_lapsed_hold_is_taken_again_on_the_same_seats_by_its_repeat(hall: Hall) -> None:
    first = await hall.held(asks(1, [3]))
    await hall.end(first.booking_id)
    assert await hall.taken() == set()
    (again,) = await hall.hold(asks(1, [9], [8]))
    assert isinstance(again, HoldOutcome)
    assert not again.repeat
    assert again.booking.seat_indexes == (3,)


async def test_a_lapsed_hold_whose_seats_are_gone_is_answered_as_before_so_that_the_ledger_decides(hall: Hall) -> None:
    first = await hall.held(asks(1, [3]))
    await hall.end(first.booking_id)
    await hall.held(asks(2, [3]))
    (again,) = await hall.hold(asks(1, [3]))
    assert again == HoldOutcome(first, repeat=True)


@pytest.mark.parametrize("state", [BookingState.REJECTED, BookingState.EXPIRED, BookingState.CANCELLED])
async def test_an_ended_booking_frees_its_seats_and_is_still_known_to_its_repeat(
    hall: Hall, state: BookingState
) -> None:
    booking = await hall.held(asks(1, [3, 4]))
    await hall.holds.settle_many([replace(booking, state=state)])
    assert await hall.taken() == set()
    assert await hall.left() == 20
    (repeat,) = await hall.hold(asks(1, [3, 4]))
    assert isinstance(repeat, HoldOutcome)
    assert repeat.booking.state is state
    assert await hall.taken() == set()


async def test_confirmed_seats_are_taken_for_good_and_counted_as_sold_once(hall: Hall) -> None:
    booking = replace(await hall.held(asks(1, [3, 4])), state=BookingState.CONFIRMED)
    for _ in range(2):
        await hall.holds.settle_many([booking])
    progress = await hall.holds.progress(EVENT)
    assert progress is not None
    assert (progress.total, progress.left, progress.sold) == (20, 18, 2)
    assert await hall.redis.zcard(key("expiries")) == 0
    await hall.holds.settle_many([replace(booking, state=BookingState.REFUNDED)])
    after = await hall.holds.progress(EVENT)
    assert after is not None
    assert (after.left, after.sold) == (20, 0)
    assert after.version > progress.version


async def test_what_is_told_late_is_not_believed(hall: Hall) -> None:
    booking = await hall.held(asks(1, [3]))
    await hall.holds.settle_many([replace(booking, state=BookingState.CONFIRMED)])
    for state in (BookingState.RESERVED, BookingState.EXPIRED):
        await hall.holds.settle_many([replace(booking, state=state)])
    assert await hall.taken() == {3}


async def test_of_two_records_of_a_state_the_one_with_less_time_is_the_older_one(hall: Hall) -> None:
    longer = replace(await hall.held(asks(1, [3])), state=BookingState.RESERVED)
    shorter = replace(longer, expire_time=longer.expire_time - timedelta(seconds=20))
    for told in (shorter, longer, shorter):
        await hall.holds.settle_many([told])
    (known,) = await hall.holds.read_many([(EVENT, longer.booking_id)])
    assert known is not None
    assert known.expire_time == longer.expire_time
    assert await due(hall, longer) == longer.expire_time + GRACE


async def due(hall: Hall, booking: Booking) -> datetime:
    score = await hall.redis.zscore(key("expiries"), booking.booking_id)
    assert isinstance(score, float)
    return from_ms(int(score))


async def test_a_payment_under_way_puts_off_the_end_of_the_hold_and_nothing_brings_it_forward(hall: Hall) -> None:
    reserved = replace(await hall.held(asks(1, [3])), state=BookingState.RESERVED)
    paying = replace(reserved, payment_state=PaymentState.PROCESSING)
    await hall.holds.settle_many([reserved])
    assert await due(hall, reserved) == reserved.expire_time + GRACE
    for told in (paying, reserved):
        await hall.holds.settle_many([told])
        assert await due(hall, reserved) == reserved.expire_time + PAYMENT_PATIENCE + GRACE
    hall.live = [paying]
    await hall.redis.flushdb()
    await hall.holds.ensure_ready(EVENT)
    assert await due(hall, reserved) == reserved.expire_time + PAYMENT_PATIENCE + GRACE


async def test_an_unchanged_record_whose_hold_is_over_for_good_gets_no_end(hall: Hall) -> None:
    sold = replace(await hall.held(asks(1, [3])), state=BookingState.CONFIRMED)
    for _ in range(2):
        await hall.holds.settle_many([sold])
    assert await hall.redis.zcard(key("expiries")) == 0


async def test_a_loser_frees_nothing_that_mysql_gave_to_someone_else(hall: Hall) -> None:
    late = await hall.held(asks(1, [3, 4]))
    await hall.end(late.booking_id)
    loser = await hall.held(asks(2, [4, 5]))
    await hall.holds.settle_many([replace(late, state=BookingState.RESERVED)])
    await hall.holds.settle_many([replace(loser, state=BookingState.REJECTED)])
    assert await hall.taken() == {3, 4}
    assert await hall.left() == 18


async def test_a_hold_that_ends_frees_nothing_that_mysql_gave_to_someone_else(hall: Hall) -> None:
    late = await hall.held(asks(1, [3, 4]))
    await hall.end(late.booking_id)
    loser = await hall.held(asks(2, [4, 5]))
    await hall.holds.settle_many([replace(late, state=BookingState.RESERVED)])
    await hall.end(loser.booking_id)
    assert await hall.taken() == {3, 4}


async def test_a_release_leaves_alone_what_became_durable_all_the_same(hall: Hall) -> None:
    lost, durable = await hall.held(asks(1, [3])), await hall.held(asks(2, [4]))
    await hall.holds.settle_many([replace(durable, state=BookingState.RESERVED)])
    await hall.holds.release_many([lost, durable])
    assert await hall.taken() == {4}


async def test_after_the_loss_of_redis_nothing_is_held_before_everything_is_rebuilt(hall: Hall) -> None:
    sold, reserved = await hall.held(asks(1, [3])), await hall.held(asks(2, [4]))
    before = await hall.holds.progress(EVENT)
    hall.live = [replace(sold, state=BookingState.CONFIRMED), replace(reserved, state=BookingState.RESERVED)]
    await hall.redis.flushdb()
    outcomes = await hall.hold(asks(5, [3], [4]), asks(6, [5]), asks(2, [4]))
    assert [type(each) for each in outcomes] == [SeatsTaken, HoldOutcome, HoldOutcome]
    assert await hall.taken() == {3, 4, 5}
    after = await hall.holds.progress(EVENT)
    assert before is not None
    assert after is not None
    assert (after.left, after.sold) == (17, 1)
    assert after.version > before.version, "versions grow even when the earlier ones were lost"


async def test_while_mysql_is_away_a_lost_event_stays_closed(hall: Hall) -> None:
    class AwayError(Exception):
        pass

    async def read(_event_id: int) -> None:
        raise AwayError

    hall.holds._read_snapshot = read  # type: ignore[assignment] # it never answers
    (outcome,) = await hall.hold(asks(1, [3]))
    assert isinstance(outcome, AwayError)
    assert not await hall.redis.exists(key("counts"), key("seats"), key("rebuild"))


async def test_what_is_committed_while_mysql_is_being_read_is_not_lost(hall: Hall) -> None:
    late = committed(1, [3], BookingState.RESERVED)
    paid = committed(2, [4], BookingState.CONFIRMED)
    hall.live = [replace(paid, state=BookingState.RESERVED)]
    read = hall.holds._read_snapshot

    async def read_slowly(event_id: int) -> object:
        snapshot = await read(event_id)
        await hall.holds.settle_many([late, paid])
        return snapshot

    hall.holds._read_snapshot = read_slowly  # type: ignore[assignment] # the same, with something happening meanwhile
    assert await hall.taken() == {3, 4}
    progress = await hall.holds.progress(EVENT)
    assert progress is not None
    assert progress.sold == 1


async def test_what_is_told_late_during_a_rebuild_shortens_nothing(hall: Hall) -> None:
    longer = committed(1, [3], BookingState.RESERVED)
    hall.live = [longer]
    read = hall.holds._read_snapshot

    async def read_slowly(event_id: int) -> object:
        snapshot = await read(event_id)
        await hall.holds.settle_many([replace(longer, expire_time=longer.expire_time - timedelta(seconds=20))])
        return snapshot

    hall.holds._read_snapshot = read_slowly  # type: ignore[assignment] # the same, with something happening meanwhile
    await hall.holds.ensure_ready(EVENT)
    assert await due(hall, longer) == longer.expire_time + GRACE


async def test_a_rebuild_that_fails_late_leaves_the_lock_of_the_next_one_alone(hall: Hall) -> None:
    async def read_for_too_long(_event_id: int) -> None:
        await hall.redis.set(key("rebuild"), "of another process")  # ours has ended
        raise TimeoutError

    hall.holds._read_snapshot = read_for_too_long  # type: ignore[assignment] # it never answers
    with pytest.raises(TimeoutError):
        await hall.holds.rebuild(EVENT)
    assert await hall.redis.get(key("rebuild")) == b"of another process"


async def test_an_event_that_cannot_be_reaped_does_not_stop_the_others(hall: Hall) -> None:
    await hall.holds.ensure_ready(EVENT + 1)
    await hall.redis.set(f"event:{{{EVENT + 1}}}:expiries", "not a sorted set")
    other = replace(asks(1, [3]), event_id=EVENT + 1)
    good, bad = await hall.hold(asks(2, [4]), other)
    assert isinstance(good, HoldOutcome)
    assert isinstance(bad, Exception)


async def test_concurrent_callers_share_one_rebuild(hall: Hall) -> None:
    import asyncio

    await asyncio.gather(*(hall.hold(asks(user, [user])) for user in range(10)))
    assert hall.reads == 1
    assert await hall.taken() == set(range(10))


async def test_records_are_read_back_as_they_were_written(hall: Hall) -> None:
    booking = await hall.held(asks(1, [3, 19]))
    found, unknown = await hall.holds.read_many([(EVENT, booking.booking_id), (EVENT, "7-unknown")])
    assert found == booking
    assert isinstance(found, Booking)
    assert unknown is None
