"""The shop that is measured: a stack of its own, events on sale, and buyers who are signed in and admitted.

Buyers are made without argon2 and without the line, which are not what is measured: access tokens are signed with the
stack's own signing key and admission tokens with its admission keys, exactly as auth and queue sign them. Every buyer
has an account number and tokens of their own, and everything behind the tokens verifies them as ever.
"""

import asyncio
import json
import random
import secrets
import time
from dataclasses import dataclass
from functools import partial

from deploy.local import LocalStack, seeding
from services.auth.keys import SigningKeys
from services.common.keyring import AdmissionToken, KeyRing
from services.common.tokens import ISSUER

_SESSION_SECONDS = 3600
_FIRST_ACCOUNT = 1_000_000
# As in a ticket id: event_id << 20 | seat index.
_SEAT_BITS = 20
_SHUFFLE = random.Random(20260101)  # the same order in every run


@dataclass(frozen=True)
class Buyer:
    user_id: int
    access_token: str


def access_token(keys: SigningKeys, user_id: int, role: str = "buyer") -> str:
    """A token as auth signs it."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": str(user_id),
        "sid": secrets.token_hex(16),
        "roles": [role],
        "iat": now,
        "exp": now + _SESSION_SECONDS,
        "jti": secrets.token_hex(16),
    }
    return keys.sign(claims)


class Shop:
    """A running stack and what is needed to buy from it."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        site = stack.stack.site
        environment = stack.stack.specs["inventory"].environment(site)
        self._keys = SigningKeys.read(site.folder / "secrets" / "signing-key.pem")
        self._ring = KeyRing.parse(environment["BOXOFFICE_ADMISSION_KEYS"])
        self.mysql_url = environment["BOXOFFICE_MYSQL_URL"]
        self.redis_url = environment["BOXOFFICE_REDIS_URL"]
        self.eventlog_url = environment["BOXOFFICE_EVENTLOG_URL"]
        self.host, port = site.address("edge", "http").split(":")
        self.port = int(port)

    async def event(self, seats: int) -> int:
        """Puts an event on sale; returns its id."""
        arguments = ["seed", "--seats", str(seats), "--opens-in", "-1", "--name", "Bench"]
        return int(await asyncio.to_thread(seeding.run_command, self.stack.stack, "inventory", arguments))

    async def buyers(self, number: int) -> list[Buyer]:
        """People who are signed in."""
        return await asyncio.to_thread(lambda: [self._buyer(_FIRST_ACCOUNT + at) for at in range(number)])

    def _buyer(self, user_id: int) -> Buyer:
        return Buyer(user_id, access_token(self._keys, user_id))

    def reservations(self, event_id: int, buyers: list[Buyer]) -> list[bytes]:
        """One request of each buyer, for one seat that nobody else wants, in no order of seats."""
        seats = list(range(len(buyers)))
        _SHUFFLE.shuffle(seats)
        make = partial(self._request, "POST /api/tickets/reserve", event_id)
        return [make(buyer, seat) for buyer, seat in zip(buyers, seats, strict=True)]

    def constants(self, event_id: int, buyers: list[Buyer]) -> list[bytes]:
        """The same bytes, sent to a route of the same process that answers a constant."""
        return [self._request("GET /livez", event_id, buyer, 0) for buyer in buyers]

    def _request(self, line: str, event_id: int, buyer: Buyer, seat: int) -> bytes:
        expires = int(time.time() + _SESSION_SECONDS) * 1000
        admission = AdmissionToken(buyer.user_id, event_id, expires, secrets.token_hex(8)).encode(self._ring)
        body = json.dumps({"event_id": event_id, "ticket_ids": [event_id << _SEAT_BITS | seat]})
        head = [
            f"{line} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: Bearer {buyer.access_token}",
            f"X-Admission-Token: {admission}",
            f"Idempotency-Key: {secrets.token_hex(16)}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(head) + "\r\n\r\n" + body).encode()

    async def audit(self, event_id: int) -> dict[str, object]:
        """The auditor's verdict on an event; raises SeedError when it found anything."""
        arguments = ["audit", "--event", str(event_id), "--json"]
        text = await asyncio.to_thread(seeding.run_command, self.stack.stack, "inventory", arguments)
        report: dict[str, object] = json.loads(text)
        return report
