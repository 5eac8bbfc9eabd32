"""Reservations in MySQL: exactly one owner per ticket, whatever races and repeats."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb

from services.common.mysql import Transaction
from services.inventory.decisions import Floor, decide
from services.inventory.domain import Booking, BookingState, ticket_id
from services.inventory.ledger import Ledger, reservations
from tests.inventory.sale import EVENT, LIMIT, Sale

R, X, E = BookingState.RESERVED, BookingState.REJECTED, BookingState.EXPIRED


@pytest.fixture
def ledger(sale: Sale) -> Ledger:
    return Ledger(sale.db)


def states(bookings: list[Booking]) -> list[BookingState]:
    return [each.state for each in bookings]


def floor(free: range, limit: int = LIMIT) -> Floor:
    owners: dict[int, str | None] = {ticket_id(EVENT, seat): None for seat in free}
    return Floor(now=datetime.now(tz=UTC), owners=owners, limits={EVENT: limit})


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([Sale.command(1, [0, 1]), Sale.command(2, [1, 2])], [R, X]),
        ([Sale.command(1, [0, 1]), Sale.command(2, [2])], [R, R]),
        ([Sale.command(1, [0, 99])], [X]),
        ([Sale.command(1, [3, 3])], [X]),
        ([Sale.command(1, [0], minutes=-1), Sale.command(2, [0])], [E, R]),
        (
            [Sale.command(1, [0, 1, 2]), Sale.command(1, [3, 4], "key-00002"), Sale.command(1, [5], "key-00003")],
            [R, X, R],
        ),
        ([Sale.command(1, [0], event_id=8)], [X]),
    ],
    ids=["first wins", "apart", "no such seat", "same seat twice", "too late", "limit", "no such event"],
)
def test_decision(commands: list[Booking], expected: list[BookingState]) -> None:
    assert states(decide(commands, floor(range(10)))) == expected


async def test_commits_tickets_booking_and_one_record_of_facts(ledger: Ledger, sale: Sale) -> None:
    first, second = sale.command(1, [0, 1]), sale.command(2, [1])
    assert states(await ledger.commit_reservations([first, second])) == [R, X]
    assert await sale.owners() == {0: ("RESERVED", first.booking_id), 1: ("RESERVED", first.booking_id)}
    ((topic, key, payload),) = await sale.rows("SELECT topic, record_key, payload FROM outbox")
    facts = events_pb.BookingEvents.FromString(payload).events
    assert (topic, key) == ("booking.events", str(EVENT))
    assert [(fact.booking_id, fact.state, fact.ticket_count) for fact in facts] == [
        (first.booking_id, booking_pb.Booking.STATE_RESERVED, 2),
        (second.booking_id, booking_pb.Booking.STATE_REJECTED, 1),
    ]
    stored = await ledger.booking(first.booking_id, 1)
    assert stored is not None
    assert (stored.amount, stored.seat_indexes, stored.request_hash) == (
        first.amount,
        first.seat_indexes,
        first.request_hash,
    )
    assert await ledger.booking(first.booking_id, 2) is None


async def test_redelivery_changes_nothing(ledger: Ledger, sale: Sale) -> None:
    commands = [sale.command(1, [0, 1]), sale.command(2, [1]), sale.command(3, [5])]
    first = await ledger.commit_reservations(commands)
    before = await sale.rows("SELECT * FROM bookings ORDER BY booking_id")
    again = await ledger.commit_reservations([*commands, commands[0]])
    assert states(again) == [*states(first), R]
    assert await sale.rows("SELECT * FROM bookings ORDER BY booking_id") == before
    assert await sale.rows("SELECT COUNT(*) FROM outbox") == [(1,)]


async def test_the_same_command_twice_in_a_batch_is_one_booking(ledger: Ledger, sale: Sale) -> None:
    command = sale.command(1, [0])
    assert states(await ledger.commit_reservations([command, command])) == [R, R]
    assert await sale.rows("SELECT COUNT(*) FROM bookings") == [(1,)]


async def race(ledger: Ledger, sale: Sale) -> list[BookingState]:
    commands = [sale.command(user, [10, 11, 12]) for user in range(1, 51)]
    outcomes = await asyncio.gather(*(ledger.commit_reservations([command]) for command in commands))
    return [booking.state for (*_, booking) in outcomes]


async def test_of_fifty_transactions_for_the_same_seats_one_wins(ledger: Ledger, sale: Sale) -> None:
    outcomes = await race(ledger, sale)
    assert outcomes.count(R) == 1
    assert outcomes.count(X) == 49
    assert await sale.rows("SELECT COUNT(*) FROM bookings WHERE state = 'RESERVED'") == [(1,)]


async def test_control_without_row_locks_several_win(
    ledger: Ledger, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the race above is one: the same, reading tickets without FOR UPDATE, and trusting what was read."""
    everyone_has_read = asyncio.Barrier(50)
    lock_tickets, execute_many = reservations._lock_tickets, Transaction.execute_many

    async def read_together(tx: Transaction, commands: list[Booking]) -> object:
        tickets = await lock_tickets(tx, commands)
        await everyone_has_read.wait()
        return tickets

    async def without_check(tx: Transaction, sql: str, rows: list[tuple[object, ...]]) -> int:
        await execute_many(tx, sql, rows)
        return 2 * len(rows)

    monkeypatch.setattr(reservations, "_LOCK_TICKETS", reservations._LOCK_TICKETS.removesuffix(" FOR UPDATE"))
    monkeypatch.setattr(reservations, "_lock_tickets", read_together)
    monkeypatch.setattr(Transaction, "execute_many", without_check)
    assert (await race(ledger, sale)).count(R) > 1


async def test_batches_that_overlap_in_any_order_do_not_deadlock(ledger: Ledger, sale: Sale) -> None:
    batches = [
        [sale.command(b * 100 + s, [(s * step + b) % 40]) for s in range(20)] for b, step in enumerate((1, 3, 7))
    ]
    await asyncio.gather(*(ledger.commit_reservations(batch) for batch in batches))
    owners = await sale.owners()
    reserved = await sale.rows("SELECT COUNT(*) FROM bookings WHERE state = 'RESERVED'")
    assert reserved == [(len(owners),)]


async def test_an_overdue_booking_makes_way_and_is_told(ledger: Ledger, sale: Sale) -> None:
    old, new = sale.command(1, [0, 1]), sale.command(2, [1, 2])
    await ledger.commit_reservations([old])
    await sale.make_overdue(old.booking_id)
    settled = await ledger.commit_reservations([new])
    assert [(each.booking_id, each.state) for each in settled] == [(old.booking_id, E), (new.booking_id, R)]
    assert await sale.owners() == {1: ("RESERVED", new.booking_id), 2: ("RESERVED", new.booking_id)}


async def test_a_payment_under_way_keeps_the_seats_of_an_overdue_booking(ledger: Ledger, sale: Sale) -> None:
    old, new = sale.command(1, [0]), sale.command(2, [0])
    await ledger.commit_reservations([old])
    await sale.execute(
        "INSERT INTO payments (booking_id, idempotency_key, request_hash, provider, provider_key, amount, currency, "
        "state, create_time, update_time) VALUES (%s, 'k', REPEAT('x', 32), 'dummy', 'p', 1, 'KRW', 'INTENT', "
        "UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
        old.booking_id,
    )
    await sale.make_overdue(old.booking_id)
    *_, refused = await ledger.commit_reservations([new])
    assert refused.state is X
    assert await sale.state(old.booking_id) == "RESERVED"
    assert await ledger.expire_due() == []
    await sale.make_overdue(old.booking_id, seconds=200)  # the provider has been silent for longer than our patience
    assert states(await ledger.expire_due()) == [E]


async def test_the_limit_per_person_counts_what_is_live(ledger: Ledger, sale: Sale) -> None:
    first, second = sale.command(1, [0, 1, 2]), sale.command(1, [3, 4], "key-00002")
    await ledger.commit_reservations([first])
    assert states(await ledger.commit_reservations([second])) == [X]
    await sale.make_overdue(first.booking_id)
    third = sale.command(1, [3, 4], "key-00003")
    assert states(await ledger.commit_reservations([third])) == [E, R]


async def test_a_cancelled_booking_frees_its_seats_and_stays_cancelled(ledger: Ledger, sale: Sale) -> None:
    command = sale.command(1, [0, 1])
    await ledger.commit_reservations([command])
    for _ in range(2):
        assert (await ledger.cancel(command.booking_id, 1)).state is BookingState.CANCELLED
    assert await sale.owners() == {}
    assert await sale.rows("SELECT COUNT(*) FROM outbox") == [(2,)]


async def test_pages_of_my_bookings_are_newest_first(ledger: Ledger, sale: Sale) -> None:
    mine = [sale.command(1, [seat], f"key-0000{seat}") for seat in range(4)]
    await ledger.commit_reservations([*mine, sale.command(2, [9])])
    first = await ledger.bookings_of(1, 3)
    rest = await ledger.bookings_of(1, 3, (first[-1].create_time, first[-1].booking_id))
    assert [each.seat_indexes for each in first + rest] == [(3,), (2,), (1,), (0,)]


async def test_live_bookings_are_those_that_redis_mirrors(ledger: Ledger, sale: Sale) -> None:
    live, gone = sale.command(1, [0]), sale.command(2, [1])
    await ledger.commit_reservations([live, gone])
    await ledger.cancel(gone.booking_id, 2)
    assert {each.booking_id for each in await ledger.live_bookings(EVENT)} == {live.booking_id}
    recent = await ledger.live_bookings(EVENT, ended_within=timedelta(hours=1))
    assert {each.booking_id for each in recent} == {live.booking_id, gone.booking_id}
