"""People buy while the processes of the system are killed under them, one after the other: every promise is kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
import redis
from boxoffice.queue.v1 import queue_events_pb2 as queue_pb

from deploy.local.seeding import SeedError, run_command
from deploy.local.site import EventLogKind
from deploy.local.stack import Stack, session_name
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import QUEUE_EVENTS
from tests.e2e.crowd import PAY, RESERVE, Attempt, Crowd, Ledger, Told, connection, read_ledger, violations
from tests.e2e.shop import Person, Shop, new_key
from tests.support import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
on_both = pytest.mark.parametrize("crash_stack", ["kafka", "redis"], indirect=True)
# Where Redis is the event log as well it must not vanish: Kafka keeps what was promised.
on_kafka = pytest.mark.parametrize("crash_stack", ["kafka"], indirect=True)

SEATS, BUYERS = 300, 10
SETTINGS = {"BOXOFFICE_TRACE_RATIO": "0", "BOXOFFICE_BOOKING_HOLD_SECONDS": "3"}
# Where deploy/local/services.py has inventory keep its seats.
SEATS_DATABASE = 2
# A worker that comes back has its partitions after six seconds, then makes good what has waited.
RECOVERED = timedelta(seconds=45)
KILLED = {
    "kafka": ("inventory", "inventory-worker", "queue", "edge", "notify", "auth", "valkey", "mariadb"),
    "redis": ("inventory-worker", "inventory", "valkey"),
}
NOBODY = Attempt(Person(0, ""), {}, {})


@pytest.fixture(scope="module")
def crash_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A whole stack of our own, which may be hurt; nobody has long to pay."""
    events: EventLogKind = request.param
    stack = Stack(session_name(f"test-crash-{events}"), events=events, settings=SETTINGS)
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


@pytest.fixture
async def crowd(crash_stack: Stack) -> AsyncIterator[Crowd]:
    async with aiohttp.ClientSession(base_url=crash_stack.url("edge")) as session:
        shop = Shop(crash_stack, session)
        yield Crowd(shop, await shop.seed("--seats", str(SEATS)), SEATS)


async def sells(crowd: Crowd) -> None:
    """Returns when some more have bought."""
    enough = len(crowd.told.confirmed) + 5
    await eventually(lambda: len(crowd.told.confirmed) >= enough, within=RECOVERED)


async def kill_and_start(stack: Stack, name: str) -> None:
    """A crash, some time to notice it, and the start by whatever looks after the process."""
    await asyncio.to_thread(stack.kill, name)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(stack.start, name)


async def ledger_of(crowd: Crowd) -> Ledger:
    return await asyncio.to_thread(read_ledger, crowd.shop.stack, crowd.event_id)


async def settled(crowd: Crowd) -> Ledger:
    """The ledger when nothing is under way any more: what was not paid has expired."""

    async def decided() -> Ledger:
        ledger = await ledger_of(crowd)
        assert violations(crowd.told, ledger) == []
        return ledger

    return await eventually(decided, within=RECOVERED)


async def audited(crowd: Crowd) -> dict[str, Any]:
    """What the auditor finds; SeedError when that is anything."""
    arguments = ["audit", "--event", str(crowd.event_id), "--json"]
    report: dict[str, Any] = json.loads(await asyncio.to_thread(run_command, crowd.shop.stack, "inventory", arguments))
    return report


async def audited_clean(crowd: Crowd) -> None:
    async def clean() -> bool:
        try:
            return bool((await audited(crowd))["clean"])
        except SeedError as error:
            raise AssertionError(error) from error

    await eventually(clean, within=RECOVERED)


@on_both
async def test_every_promise_outlives_the_death_of_every_process(crowd: Crowd) -> None:
    stack = crowd.shop.stack
    async with crowd.buying(BUYERS):
        await sells(crowd)
        for name in KILLED[stack.site.events]:
            await kill_and_start(stack, name)
            await sells(crowd)

    await settled(crowd)
    assert len(crowd.told.accepted) > len(crowd.told.confirmed)
    assert await crowd.repeat_all() == []
    await eventually(lambda: everyone_was_told(crowd), within=RECOVERED)
    await audited_clean(crowd)
    await settled(crowd)


async def everyone_was_told(crowd: Crowd) -> bool:
    """Whether each purchase was pushed to the phone of its buyer, at least once."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{crowd.shop.stack.url('sns')}/moto-api/data.json") as book,
    ):
        pushed = await book.text()
    return all(f"booking={booking_id}" in pushed for booking_id in crowd.told.confirmed)


def lose(stack: Stack, database: int | None = None) -> None:
    """Empties Redis, or one of its databases."""
    with redis.Redis.from_url(f"{stack.url('valkey').rpartition('/')[0]}/{database or 0}") as client:
        client.flushall() if database is None else client.flushdb()


@on_kafka
async def test_redis_may_vanish_in_the_middle_of_a_sale(crowd: Crowd) -> None:
    stack = crowd.shop.stack
    async with crowd.buying(BUYERS):
        # The seats alone are lost more often: the line needs seconds to be rebuilt, the seats must not.
        for database in (None, SEATS_DATABASE, SEATS_DATABASE, SEATS_DATABASE):
            await sells(crowd)
            lose(stack, database)
        await sells(crowd)

    ledger = await settled(crowd)
    calls = await first_calls(stack, crowd.event_id)
    assert len(calls) >= BUYERS
    assert out_of_order(calls) == []
    assert await crowd.repeat_all() == []
    await eventually(lambda: only_sold_seats_are_taken(crowd, ledger), within=RECOVERED)
    await audited_clean(crowd)
    await settled(crowd)


async def first_calls(stack: Stack, event_id: int) -> list[int]:
    """The scores of everyone who was called for the first time, in the order in which they were called."""
    scores: dict[str, int] = {}
    async with open_event_log(stack.url("eventlog")) as log:
        async for record in log.read_all(QUEUE_EVENTS, key=str(event_id)):
            for fact in queue_pb.QueueEvents.FromString(record.value).events:
                if fact.place_called.calls == 1:
                    scores[fact.id] = fact.place_called.score
    return list(scores.values())


def out_of_order(scores: Sequence[int]) -> list[tuple[int, int]]:
    """Who was called right after somebody with a larger score: each pair is one of those."""
    return [(one, next_one) for one, next_one in pairwise(scores) if next_one < one]


async def only_sold_seats_are_taken(crowd: Crowd, ledger: Ledger) -> bool:
    return await crowd.shop.seats_left(crowd.event_id) == SEATS - len(ledger.owners)


@on_kafka
async def test_what_is_taken_stays_taken_when_redis_forgets_it(crowd: Crowd) -> None:
    shop, event_id = crowd.shop, crowd.event_id
    buyer, other = await shop.sign_up(), await shop.sign_up()
    admission, others_admission = await shop.admit(buyer, event_id), await shop.admit(other, event_id)
    sold = await shop.reserve(buyer, event_id, admission)
    body = {"booking_id": sold["booking_id"], "payment_method": "tok_approve"}
    reserved = await shop.reserve(buyer, event_id, admission)  # before the purchase, which ends the admission
    await shop.ok("POST", PAY, person=buyer, headers=new_key(), json_body=body)
    lose(shop.stack)

    async def answer(ticket_ids: list[int]) -> tuple[int, str]:
        wish = {"event_id": event_id, "ticket_ids": ticket_ids}
        answer = await shop.call(
            "POST", RESERVE, person=other, headers={**new_key(), **others_admission}, json_body=wish
        )
        return answer.status, answer.body.get("code", "")

    assert await answer(reserved["ticket_ids"]) == (409, "SEATS_TAKEN")
    assert await answer(sold["ticket_ids"]) == (409, "SEATS_TAKEN")
    assert (await answer([(event_id << 20) + SEATS - 1]))[0] == 202


# --- the checks can fail ---------------------------------------------------------------------------------------------


def test_control_who_is_called_before_somebody_in_front_is_found() -> None:
    assert out_of_order([1, 2, 5, 4, 6]) == [(5, 4)]


@on_kafka
async def test_control_a_tampered_ledger_and_a_made_up_promise_are_found(crowd: Crowd) -> None:
    async with crowd.buying(2):
        await sells(crowd)
    ledger = await settled(crowd)
    (mine, tickets), (yours, _) = list(crowd.told.confirmed.items())[:2]

    promised = replace(crowd.told, accepted={**crowd.told.accepted, f"{crowd.event_id:x}-made-up": NOBODY})
    assert [text for text in violations(promised, ledger) if "undecided: unknown" in text]
    (ticket,) = tickets
    with connection(crowd.shop.stack) as db, db.cursor() as cursor:
        cursor.execute("UPDATE tickets SET booking_id = %s WHERE id = %s", (yours, ticket))

    found = violations(crowd.told, await ledger_of(crowd))
    assert found == [f"{ticket} was sold to {mine} and belongs to {yours}"]
    with pytest.raises(SeedError):
        await audited(crowd)


@pytest.mark.parametrize(
    ("told", "ledger", "problem"),
    [
        (Told(accepted={"a": NOBODY}), Ledger({"a": "RESERVED"}, {}), "undecided"),
        (Told(confirmed={"a": frozenset()}), Ledger({"a": "EXPIRED"}, {}), "is EXPIRED"),
        (
            Told(confirmed={"a": frozenset({1}), "b": frozenset({1})}),
            Ledger({"a": "CONFIRMED", "b": "CONFIRMED"}, {1: "a"}),
            "1 was sold to ['a', 'b']",
        ),
        (Told(broken=["500"]), Ledger({}, {}), "500"),
    ],
)
def test_control_each_broken_promise_is_found(told: Told, ledger: Ledger, problem: str) -> None:
    assert [text for text in violations(told, ledger) if problem in text]
