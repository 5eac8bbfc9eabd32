"""Buyers who do not give up, what they were told meanwhile, and a judge who compares it with the ledger."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
import pymysql

from deploy.local.stack import Stack
from tests.e2e.shop import Answer, Json, Person, Shop, new_key

RESERVE, PAY = "/api/tickets/reserve", "/api/tickets/pay"
# Longer than anything is away in these tests.
PATIENCE = timedelta(seconds=45)
# An account may hold so many tickets of an event; whoever has bought them comes back as somebody else.
ROUNDS = 4
_SEAT_BITS = 20


@dataclass(frozen=True)
class Attempt:
    """A reservation as it was sent, so that it can be sent again."""

    person: Person
    headers: Mapping[str, str]
    body: Json


@dataclass
class Told:
    """What clients were told, and so must be true."""

    accepted: dict[str, Attempt] = field(default_factory=dict)
    # Tickets by the booking that was shown as CONFIRMED with them.
    confirmed: dict[str, frozenset[int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Ledger:
    """What MySQL holds of an event: bookings by id, and who owns each ticket."""

    states: Mapping[str, str]
    owners: Mapping[int, str]


def read_ledger(stack: Stack, event_id: int) -> Ledger:
    """Reads it as it is now."""
    with connection(stack) as db, db.cursor() as cursor:
        cursor.execute("SELECT booking_id, state FROM bookings WHERE event_id = %s", (event_id,))
        states = dict(cursor.fetchall())
        cursor.execute("SELECT id, booking_id FROM tickets WHERE event_id = %s AND status = 'SOLD'", (event_id,))
        return Ledger(states, dict(cursor.fetchall()))


def connection(stack: Stack) -> Any:
    """A connection to inventory's database; each statement is committed."""
    account, _, address = stack.site.mysql_url("boxoffice_inventory").removeprefix("mysql://").rpartition("@")
    user, _, password = account.partition(":")
    host, _, port = address.partition("/")[0].partition(":")
    return pymysql.connect(
        host=host, port=int(port), user=user, password=password, database="boxoffice_inventory", autocommit=True
    )


def violations(told: Told, ledger: Ledger) -> list[str]:
    """What clients were told and the ledger does not bear out. Reservations must have ended by now."""
    found = list(told.broken)
    for booking_id in told.accepted:
        state = ledger.states.get(booking_id, "unknown")
        if state in {"unknown", "RESERVED"}:
            found.append(f"{booking_id} was accepted and is undecided: {state}")
    owners: defaultdict[int, set[str]] = defaultdict(set)
    for booking_id, tickets in told.confirmed.items():
        if ledger.states.get(booking_id) != "CONFIRMED":
            found.append(f"{booking_id} was shown as CONFIRMED and is {ledger.states.get(booking_id)}")
        for ticket in tickets:
            owners[ticket].add(booking_id)
            if ledger.owners.get(ticket) != booking_id:
                found.append(f"{ticket} was sold to {booking_id} and belongs to {ledger.owners.get(ticket)}")
    found += [f"{ticket} was sold to {sorted(buyers)}" for ticket, buyers in owners.items() if len(buyers) > 1]
    return found


class Crowd:
    """Buyers who join, reserve, pay or not, and begin again. What is away is asked again, with the same key."""

    def __init__(self, shop: Shop, event_id: int, seats: int) -> None:
        self.shop = shop
        self.event_id = event_id
        self.told = Told()
        self._seats = seats
        self._over = asyncio.Event()
        self._chance = random.Random(7)
        # What each account carries to come back to its place when the line is lost.
        self._places: dict[int, str] = {}

    @asynccontextmanager
    async def buying(self, size: int) -> AsyncIterator["Crowd"]:
        """So many buyers, until the block ends and each has finished what was begun."""
        # A buyer who fails ends the others and the block: nobody waits for a sale that does not go on.
        async with asyncio.TaskGroup() as buyers:
            for _ in range(size):
                buyers.create_task(self._buyer())
            yield self
            self._over.set()

    async def _buyer(self) -> None:
        while not self._over.is_set():
            person = await self._sign_up()
            for _ in range(ROUNDS):
                if not self._over.is_set():
                    await self._round(person)

    async def _sign_up(self) -> Person:
        body = {"email": f"{new_key()['Idempotency-Key']}@example.com", "password": "correct horse battery"}
        answer = await self.insist("POST", "/api/auth/signup", json_body=body)
        if answer.status == 409:  # the account was made, its answer was lost
            answer = await self.insist("POST", "/api/auth/login", json_body=body)
        person = Person(answer.body["account"]["user_id"], answer.body["tokens"]["access_token"])
        device = {"device_token": f"phone-of-{person.user_id}", "platform": "IOS"}
        registered = await self.insist("POST", "/api/notifications/register", person=person, json_body=device)
        assert registered.status < 300, registered.body
        return person

    async def insist(self, method: str, path: str, **options: Any) -> Answer:
        """The first definite answer; the same request again and again until there is one."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with asyncio.timeout(8):
                        answer = await self.shop.call(method, path, **options)
                    if answer.status < 500 and answer.body.get("code") != "IDEMPOTENCY_IN_PROGRESS":
                        return answer
                    if answer.status == 500:
                        self.told.broken.append(f"{method} {path} → {answer.body}")
                await asyncio.sleep(0.1 + self._chance.random() / 5)

    async def _round(self, person: Person) -> None:
        admission = await self._admission(person)
        if admission is None:
            return
        attempt = Attempt(person, {**new_key(), **admission}, {"event_id": self.event_id, **self._wish()})
        answer = await self.reserve(attempt)
        if answer.status != 202:
            self.told.refusals[str(answer.body.get("code"))] += 1
            return
        booking_id = answer.body["booking_id"]
        self.told.accepted[booking_id] = attempt
        if await self._decided(person, booking_id) == "RESERVED" and self._chance.random() < 0.8:
            await self._pay(person, booking_id)

    async def reserve(self, attempt: Attempt) -> Answer:
        """Sends an attempt, for the first time or again."""
        return await self.insist(
            "POST", RESERVE, person=attempt.person, headers=attempt.headers, json_body=attempt.body
        )

    def _wish(self) -> Json:
        """Two wishes in three are for certain seats, so that buyers meet."""
        if self._chance.random() < 0.33:
            return {"best_available": {"quantity": 1}}
        return {"ticket_ids": [(self.event_id << _SEAT_BITS) + self._chance.randrange(self._seats)]}

    async def _admission(self, person: Person) -> dict[str, str] | None:
        """Takes the person through the line; None when the crowd goes home first."""
        line = f"/api/events/{self.event_id}/queue"
        while not self._over.is_set():
            if await self._state_in_line(person, line) in {"READY", "ADMITTED"}:
                claim = await self.insist("POST", f"{line}/claim", person=person, json_body={})
                if claim.status == 200:
                    return {"X-Admission-Token": claim.body["admission_token"]}
            await asyncio.sleep(0.1)
        return None

    async def _state_in_line(self, person: Person, line: str) -> str:
        """Of the person's place; takes one where there is none that lives."""
        found = await self.insist("GET", f"{line}/me", person=person)
        if found.status != 404 and (state := found.body["place"]["state"]) not in {"DONE", "EXPIRED", "LEFT"}:
            return str(state)
        proof = {"signed_place": self._places[person.user_id]} if person.user_id in self._places else {}
        joined = await self.insist("POST", line, person=person, json_body=proof)
        if joined.status == 429:  # who buys again and again joins more often than people do
            await asyncio.sleep(joined.body["retry_after_ms"] / 1000)
            return ""
        assert joined.status in {200, 201}, joined.body
        self._places[person.user_id] = joined.body["signed_place"]
        return str(joined.body["place"]["state"])

    async def _decided(self, person: Person, booking_id: str) -> str:
        """The state after PENDING. Unknown counts as PENDING: Redis, where PENDING is known, may have been lost."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while True:
                answer = await self._status(person, booking_id)
                if answer.status == 200 and (state := answer.body["booking"]["state"]) != "PENDING":
                    return str(state)
                await asyncio.sleep(0.1)

    async def _status(self, person: Person, booking_id: str) -> Answer:
        return await self.insist("GET", f"/api/tickets/status?booking_id={booking_id}", person=person)

    async def _pay(self, person: Person, booking_id: str) -> None:
        body = {"booking_id": booking_id, "payment_method": "tok_approve"}
        answer = await self.insist("POST", PAY, person=person, headers=new_key(), json_body=body)
        if answer.status != 200:
            self.told.refusals[str(answer.body.get("code"))] += 1
        elif answer.body["booking"]["state"] == "CONFIRMED":
            self.told.confirmed[booking_id] = frozenset(answer.body["booking"]["ticket_ids"])

    async def repeat_all(self) -> list[str]:
        """Sends every accepted reservation once more; what was answered otherwise than the first time."""
        slots = asyncio.Semaphore(16)

        async def repeat(booking_id: str, attempt: Attempt) -> str | None:
            async with slots:
                answer = await self.reserve(attempt)
            same = answer.status == 202 and answer.body["booking_id"] == booking_id
            return None if same else f"a repeat for {booking_id} answered {answer.status} {answer.body}"

        repeats = (repeat(booking_id, attempt) for booking_id, attempt in self.told.accepted.items())
        return [problem for problem in await asyncio.gather(*repeats) if problem]
