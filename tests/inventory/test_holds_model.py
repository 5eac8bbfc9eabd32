"""The scripts against a plain model of them, and both against what MySQL has decided."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from services.common.redis import open_redis
from services.inventory.domain import (
    Booking,
    BookingState,
    IdempotencyKeyReused,
    SeatsTaken,
    TicketLimit,
    booking_id_for,
)
from services.inventory.holds import HoldOutcome
from services.inventory.records import unpack
from tests.inventory.seats import EVENT, Hall, asks, committed, key

T = TypeVar("T")

# Each of the guards of the scripts is missed within the first few examples; a longer search is for who changes them.
EXAMPLES = int(os.environ.get("BOXOFFICE_MODEL_EXAMPLES", "60"))
SEATS = 5
LIMIT = 3
USERS = st.integers(1, 2)
KEYS = st.sampled_from(["key-00001", "key-00002"])
BLOCKS = st.integers(1, 2).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, SEATS - 1), min_size=size, max_size=size, unique=True).map(sorted),
        min_size=1,
        max_size=3,
    )
)
PENDING, RESERVED, CONFIRMED = BookingState.PENDING, BookingState.RESERVED, BookingState.CONFIRMED


@dataclass
class Known:
    user: int
    wants: str
    seats: tuple[int, ...]
    state: BookingState = PENDING
    holding: bool = True
    # None: a hold, to which Redis gives its time.
    expire_time: datetime | None = None


@dataclass
class Model:
    """What Redis should know: the scripts' rules in their plainest form."""

    known: dict[str, Known] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)

    def hold(self, booking_id: str, user: int, wants: str, blocks: list[list[int]]) -> object:
        earlier = self.known.get(booking_id)
        if earlier and earlier.wants != wants:
            return IdempotencyKeyReused
        if earlier and (earlier.state is not PENDING or earlier.holding):
            return "REPEAT", earlier.seats
        options = [list(earlier.seats)] if earlier else blocks
        fitting = self.tickets_of(user) + len(options[0]) <= LIMIT
        won = next((tuple(block) for block in options if not self.owners.keys() & set(block)), None)
        if not (fitting and won):
            return ("REPEAT", earlier.seats) if earlier else SeatsTaken if fitting else TicketLimit
        self.known[booking_id] = Known(user, wants, won)
        self.owners.update(dict.fromkeys(won, booking_id))
        return "HELD", won

    def free(self, booking_id: str) -> None:
        self.owners = {seat: owner for seat, owner in self.owners.items() if owner != booking_id}

    def lapse(self, booking_id: str) -> None:
        self.free(booking_id)
        self.known[booking_id].holding = False

    def settle(self, booking: Booking, wants: str) -> None:
        earlier = self.known.get(booking.booking_id)
        if earlier and earlier.state is not booking.state and not reachable(earlier.state, booking.state):
            return
        same = earlier and earlier.state is booking.state
        if earlier and same and earlier.expire_time and booking.expire_time < earlier.expire_time:
            return
        self.free(booking.booking_id)
        live = booking.state.live
        self.known[booking.booking_id] = Known(
            booking.user_id, wants, booking.seat_indexes, booking.state, live, booking.expire_time
        )
        if live:
            self.owners.update(dict.fromkeys(booking.seat_indexes, booking.booking_id))

    def tickets_of(self, user: int) -> int:
        return sum(len(each.seats) for each in self.known.values() if each.user == user and each.holding)


def reachable(start: BookingState, end: BookingState) -> bool:
    return any(
        start.may_become(step) and (step is end or reachable(step, end)) for step in BookingState if step is not start
    )


class Scripts(RuleBasedStateMachine):
    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.opened = open_redis(self.redis_url)
        redis = self.runner.run(self.opened.__aenter__())
        self.run(redis.flushdb())
        self.hall = Hall(redis, SEATS, provisional=timedelta(hours=1))
        self.run(self.hall.holds.ensure_ready(EVENT))
        self.model = Model()
        # What MySQL has decided, and everything that it ever said.
        self.ledger: dict[str, Booking] = {}
        self.said: list[Booking] = []

    def run(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return self.runner.run(done())

    def teardown(self) -> None:
        self.runner.run(self.opened.__aexit__(None, None, None))
        self.runner.close()

    @rule(user=USERS, key=KEYS, blocks=BLOCKS, wants=st.sampled_from(["this", "this", "that"]))
    def hold(self, user: int, key: str, blocks: list[list[int]], wants: str) -> None:
        request = asks(user, *blocks, key=key, limit=LIMIT, wants=wants)
        (outcome,) = self.run(self.hall.hold(request))
        expected = self.model.hold(request.booking_id, user, wants, blocks)
        if isinstance(outcome, HoldOutcome):
            assert ("REPEAT" if outcome.repeat else "HELD", outcome.booking.seat_indexes) == expected
        else:
            assert type(outcome) is expected

    @precondition(lambda self: self.model.known)
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        holding = [name for name, each in self.model.known.items() if each.holding and each.state is not CONFIRMED]
        if holding:
            booking_id = data.draw(st.sampled_from(holding))
            self.run(self.hall.end(booking_id))
            self.model.lapse(booking_id)

    @precondition(lambda self: self.model.known)
    @rule(data=st.data(), rival=st.integers(8, 9), late=st.booleans())
    def lapse_and_lose_the_seats_to_a_rival(self, data: st.DataObject, rival: int, *, late: bool) -> None:
        """What chance alone would seldom lead to, and what the owner of each seat is kept for."""
        pending = [name for name, each in self.model.known.items() if each.holding and each.state is PENDING]
        if pending:
            booking_id = data.draw(st.sampled_from(pending))
            self.run(self.hall.end(booking_id))
            self.model.lapse(booking_id)
            self.hold(rival, "key-rival", [list(self.model.known[booking_id].seats)], "this")
            if late and not self.taken_in_mysql(booking_id) & set(self.model.known[booking_id].seats):
                self.decide_late(booking_id, booking_id_for(rival, EVENT, "key-rival"))

    def decide_late(self, first: str, rival: str) -> None:
        """MySQL takes the booking whose hold has ended, and either refuses the rival or lets its hold end."""
        self.take_step(first, RESERVED)
        if self.model.known[rival].state is not PENDING or not self.model.known[rival].holding:
            return
        if len(self.said) % 2:
            self.take_step(rival, BookingState.REJECTED)
        else:
            self.run(self.hall.end(rival))
            self.model.lapse(rival)

    @precondition(lambda self: self.model.known)
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        """MySQL takes a step with a booking that Redis has heard of."""
        booking_id = data.draw(st.sampled_from(sorted(self.model.known)))
        row = self.row(booking_id)
        steps = [state for state in BookingState if row.state.may_become(state)]
        if not steps:
            return
        state = data.draw(st.sampled_from(steps))
        if state.live and self.taken_in_mysql(booking_id) & set(row.seat_indexes):
            return
        self.take_step(booking_id, state)

    def row(self, booking_id: str) -> Booking:
        return self.ledger.get(booking_id) or self.pending(booking_id, self.model.known[booking_id])

    def take_step(self, booking_id: str, state: BookingState) -> None:
        self.ledger[booking_id] = replace(self.row(booking_id), state=state)
        self.tell(self.ledger[booking_id])

    @precondition(lambda self: any(row.state is RESERVED for row in self.ledger.values()))
    @rule(data=st.data())
    def lengthen(self, data: st.DataObject) -> None:
        """A first payment gives a booking more time; what was read before it may be told after it."""
        reserved = sorted(booking_id for booking_id, row in self.ledger.items() if row.state is RESERVED)
        row = self.ledger[data.draw(st.sampled_from(reserved))]
        self.ledger[row.booking_id] = replace(row, expire_time=row.expire_time + timedelta(seconds=20))
        self.tell(self.ledger[row.booking_id])
        self.tell(row)

    def pending(self, booking_id: str, known: Known) -> Booking:
        booking = committed(known.user, known.seats, PENDING)
        return replace(booking, booking_id=booking_id, request_hash=hashlib.sha256(known.wants.encode()).digest())

    def taken_in_mysql(self, but: str) -> set[int]:
        live = (row for row in self.ledger.values() if row.state.live and row.booking_id != but)
        return {seat for row in live for seat in row.seat_indexes}

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def repeat_something_old(self, data: st.DataObject) -> None:
        self.tell(data.draw(st.sampled_from(self.said)))

    def tell(self, booking: Booking) -> None:
        self.said.append(booking)
        self.run(self.hall.holds.settle_many([booking]))
        wants = next(
            each for each in ("this", "that") if hashlib.sha256(each.encode()).digest() == booking.request_hash
        )
        self.model.settle(booking, wants)

    @rule()
    def lose_redis(self) -> None:
        self.hall.live = list(self.ledger.values())
        self.run(self.hall.redis.flushdb())
        self.run(self.hall.holds.ensure_ready(EVENT))
        before, self.model = self.model, Model()
        for row in self.ledger.values():
            wants = before.known[row.booking_id].wants if row.booking_id in before.known else "this"
            self.model.settle(row, wants)

    @invariant()
    def agree(self) -> None:
        bitmap, (left, sold), limits, records = self.run(self.look())
        assert {seat for seat in range(SEATS) if bitmap[0] >> (7 - seat) & 1} == set(self.model.owners)
        paid = [each.seats for each in self.model.known.values() if each.holding and each.state is CONFIRMED]
        assert (int(left), int(sold)) == (SEATS - len(self.model.owners), sum(map(len, paid)))
        for user in (1, 2, 8, 9):
            assert int(limits.get(str(user).encode(), 0)) == self.model.tickets_of(user)
        assert records.keys() == {booking_id.encode() for booking_id in self.model.known}
        for booking_id, each in self.model.known.items():
            found = unpack(EVENT, booking_id, records[booking_id.encode()])
            assert (found.state, found.seat_indexes) == (each.state, each.seats)
            assert each.expire_time in {None, found.expire_time}

    async def look(self) -> list[Any]:
        """Everything that is compared, in one round trip: there are many steps."""
        async with self.hall.redis.pipeline(transaction=True) as pipe:
            pipe.get(key("seats"))
            pipe.hmget(key("counts"), "left", "sold")
            pipe.hgetall(key("limits"))
            pipe.hgetall(key("holds"))
            return await pipe.execute()

    @invariant()
    def sold_seats_are_never_on_offer(self) -> None:
        sold = {seat for row in self.ledger.values() if row.state is CONFIRMED for seat in row.seat_indexes}
        assert sold <= set(self.model.owners)


def test_the_scripts_do_what_the_model_does(redis_url: str) -> None:
    Scripts.redis_url = redis_url
    run_state_machine_as_test(
        Scripts,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
