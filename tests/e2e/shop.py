"""What the end-to-end tests do again and again, over HTTP as any client would."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from deploy.local.seeding import create_operator, run_command
from deploy.local.stack import Stack
from tests.support import eventually

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: Json

    @property
    def code(self) -> str:
        """The stable code of a problem document; fails the test when the answer is none."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), (self.status, self.body)
        assert self.body["status"] == self.status
        assert self.body["trace_id"]
        return str(self.body["code"])


@dataclass
class Person:
    """A signed-in account."""

    user_id: int
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What every call of this person carries."""
        return {"Authorization": f"Bearer {self.token}"}


def new_key() -> dict[str, str]:
    """A fresh Idempotency-Key header."""
    return {"Idempotency-Key": secrets.token_hex(16)}


@dataclass
class Shop:
    """The edge of a running stack."""

    stack: Stack
    session: aiohttp.ClientSession
    people: int = field(default=0)

    async def call(
        self,
        method: str,
        path: str,
        *,
        person: Person | None = None,
        headers: Mapping[str, str] | None = None,
        json_body: Any = None,
        data: bytes | None = None,
    ) -> Answer:
        """Sends one request; `data` sends raw bytes in place of JSON."""
        everything = {**(person.headers if person else {}), **(headers or {})}
        async with self.session.request(method, path, json=json_body, data=data, headers=everything) as response:
            return Answer(response.status, response.headers, json.loads(await response.read() or b"{}"))

    async def ok(self, method: str, path: str, **options: Any) -> Json:
        """The same, for calls that must succeed."""
        answer = await self.call(method, path, **options)
        assert answer.status < 300, (answer.status, answer.body)
        return answer.body

    async def sign_up(self) -> Person:
        """A new account."""
        body = {"email": f"{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(12)}
        answer = await self.ok("POST", "/api/auth/signup", json_body=body)
        return Person(answer["account"]["user_id"], answer["tokens"]["access_token"])

    async def operator(self) -> Person:
        """The operator's account."""
        login = await asyncio.to_thread(create_operator, self.stack)
        body = {"email": login.email, "password": login.password}
        answer = await self.ok("POST", "/api/auth/login", json_body=body)
        return Person(answer["account"]["user_id"], answer["tokens"]["access_token"])

    async def seed(self, *arguments: str) -> int:
        """A new event on sale; answers its id."""
        output = await asyncio.to_thread(
            run_command, self.stack, "inventory", ["seed", "--opens-in", "0", *(arguments or ("--seats", "40"))]
        )
        return int(output)

    async def admit(self, person: Person, event_id: int) -> dict[str, str]:
        """Takes a person through the line; answers the header that opens the seats."""
        line = f"/api/events/{event_id}/queue"
        await self.ok("POST", line, person=person, json_body={})

        async def called() -> bool:
            place = (await self.ok("GET", f"{line}/me", person=person))["place"]
            return place["state"] in ("READY", "ADMITTED")

        await eventually(called)
        claim = await self.ok("POST", f"{line}/claim", person=person, json_body={})
        return {"X-Admission-Token": claim["admission_token"]}

    async def state(self, person: Person, booking_id: str) -> str:
        """The state of a booking, as its buyer sees it."""
        answer = await self.ok("GET", f"/api/tickets/status?booking_id={booking_id}", person=person)
        return str(answer["booking"]["state"])

    async def reserve(self, person: Person, event_id: int, admission: Mapping[str, str], quantity: int = 1) -> Json:
        """Reserves the best seats and waits until they are RESERVED."""
        booking = await self.ok(
            "POST",
            "/api/tickets/reserve",
            person=person,
            headers={**new_key(), **admission},
            json_body={"event_id": event_id, "best_available": {"quantity": quantity}},
        )

        async def reserved() -> bool:
            return await self.state(person, booking["booking_id"]) == "RESERVED"

        await eventually(reserved)
        return booking

    async def has_left(self, event_id: int, seats: int) -> bool:
        """Whether so many seats become free: what is told of them may be half a second old."""

        async def told() -> bool:
            return await self.seats_left(event_id) == seats

        return bool(await eventually(told))

    async def seats_left(self, event_id: int) -> int:
        """Free seats, as of half a second ago at most."""
        answer = await self.ok("GET", f"/api/events/{event_id}/availability")
        return int(answer["seats_left"])
