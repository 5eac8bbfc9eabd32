"""One buyer's way from sign-up to ticket, over HTTP, told step by step."""

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from typing import Any

from deploy.local.demo.client import Client, Problem
from deploy.local.demo.scenario import Intent, Persona
from deploy.local.demo.tally import Tally

FINAL = {"CONFIRMED", "REJECTED", "EXPIRED", "CANCELLED", "REFUNDED"}
SALE_OVER = {"SOLD_OUT", "CLOSED"}
# Seconds until somebody without seats looks again: people do not tap twice a second until a seat comes back.
FIRST_PAUSES = (0.5, 1.0)
LAST_PAUSE = 2.0
NO_SEATS_NOW = {"SEATS_TAKEN", "NO_ADJACENT_SEATS", "SOLD_OUT"}


@dataclass(slots=True)
class Buyer:
    """A persona with a phone, in front of one sale."""

    persona: Persona
    client: Client
    event_id: int
    tally: Tally
    user_id: int = 0
    device: str = ""
    admission: str = ""
    confirmed: bool = False
    joined_at: str = ""
    """Time of joining on the server's clock, RFC 3339; empty when this person has no place."""
    called_by: str = ""
    """End of the claim window, a fixed time after the call; empty while not called."""

    async def sign_up(self, run: str) -> None:
        """Makes the account and registers the device."""
        name = f"buyer{self.persona.number}.{run}@example.com"
        answer, _ = await self.client.call(
            "POST", "/api/auth/signup", body={"email": name, "password": secrets.token_urlsafe(12)}, timed="signup"
        )
        self.client.token = answer["tokens"]["access_token"]
        self.user_id = answer["account"]["user_id"]
        self.tally.counts["signed_up"] += 1
        if self.persona.has_device:
            self.device = f"device-{run}-{self.persona.number:06d}"
            body = {"device_token": self.device, "platform": "ANDROID"}
            await self.client.call("POST", "/api/notifications/register", body=body)
            self.tally.counts["devices"] += 1

    @property
    def pushes_due(self) -> set[tuple[str, str]]:
        """Messages that must have reached this person's phone, as (device, kind)."""
        if not self.device:
            return set()
        kinds = [("called", bool(self.admission)), ("confirmed", self.confirmed)]
        return {(self.device, kind) for kind, due in kinds if due}

    async def attend(self) -> None:
        """Goes through the sale as the persona intends."""
        if self.persona.intent is Intent.SKIPS_LINE:
            await self._try_to_skip()
        if not await self._join():
            return
        if self.persona.intent is Intent.LEAVES_LINE:
            await self.client.call("DELETE", f"{self._line}/me")
            self.joined_at = ""
            self.tally.counts["left"] += 1
            return
        if await self._wait_for_turn():
            await self._shop()

    @property
    def _line(self) -> str:
        return f"/api/events/{self.event_id}/queue"

    async def _try_to_skip(self) -> None:
        """Every way around the line must be refused with 403."""
        body = {"event_id": self.event_id, "best_available": {"quantity": 1}}
        for headers in ({}, {"X-Admission-Token": "k1." + secrets.token_urlsafe(60)}):
            self.tally.counts["skip_attempts"] += 1
            try:
                await self.client.call(
                    "POST",
                    "/api/tickets/reserve",
                    body=body,
                    headers={"Idempotency-Key": secrets.token_hex(8), **headers},
                )
            except Problem as problem:
                if problem.status == 403:  # noqa: PLR2004
                    self.tally.counts["skips_refused"] += 1
                    continue
            self.tally.promise_broken(f"buyer {self.persona.number} got past the line")

    async def _join(self) -> bool:
        times = 2 if self.persona.intent is Intent.RETRIES else 1
        for _ in range(times):
            try:
                answer, _ = await self.client.call("POST", self._line, body={}, timed="join")
            except Problem as problem:
                if problem.code in SALE_OVER or problem.code == "SALE_CLOSED":
                    self.tally.counts["turned_away"] += 1
                    return False
                raise
        self.joined_at = answer["place"]["join_time"]
        self.tally.counts["joined"] += 1
        return True

    async def _wait_for_turn(self) -> bool:
        """True when the admission token is in hand; False when the sale ended first."""
        watch = self._follow_line if self.persona.follows_stream else self._poll_line
        if not await watch():
            self.tally.counts["turned_away"] += 1
            return False
        claim, _ = await self.client.call("POST", f"{self._line}/claim", body={})
        self.admission = claim["admission_token"]
        self.tally.counts["admitted"] += 1
        return True

    async def _follow_line(self) -> bool:
        async for update in self.client.follow(f"{self._line}/stream"):
            verdict = self._my_turn(update["place"])
            if verdict is not None:
                return verdict
        return await self._poll_line()

    async def _poll_line(self) -> bool:
        while True:
            answer, _ = await self.client.call("GET", f"{self._line}/me", timed="poll")
            verdict = self._my_turn(answer["place"])
            if verdict is not None:
                return verdict
            await asyncio.sleep(answer["place"]["poll_after_ms"] / 1000)

    def _my_turn(self, place: dict[str, Any]) -> bool | None:
        """True: called. False: over. None: keep waiting."""
        self.called_by = place.get("claim_expire_time", self.called_by)
        if place["state"] in ("READY", "ADMITTED"):
            return True
        if place["state"] != "WAITING" or place["sale_state"] in SALE_OVER:
            return False
        return None

    async def _shop(self) -> None:
        """Reserves and pays; asks for fewer tickets when no block is left, and again while seats may come back."""
        quantity = self.persona.quantity
        pauses = itertools.chain(FIRST_PAUSES, itertools.repeat(LAST_PAUSE))
        while True:
            booking = await self._reserve(quantity)
            if booking is None:
                if await self._sale_is_over():
                    self.tally.counts["went_empty"] += 1
                    return
                quantity = max(1, quantity - 1)
                await asyncio.sleep(next(pauses))
                continue
            state = await self._decided(booking["booking_id"])
            if state == "RESERVED":
                await self._pay_or_not(booking["booking_id"])
                return
            self.tally.counts["rejected"] += state == "REJECTED"

    async def _sale_is_over(self) -> bool:
        """Whether no seat can come back any more, or this person's time inside has ended."""
        try:
            answer, _ = await self.client.call("GET", f"{self._line}/me")
        except Problem:
            return True
        return answer["place"]["state"] != "ADMITTED" or answer["place"]["sale_state"] in SALE_OVER

    async def _reserve(self, quantity: int) -> dict[str, Any] | None:
        """The accepted booking, or None when there are no such seats now."""
        key = secrets.token_hex(16)
        body = {"event_id": self.event_id, "best_available": {"quantity": quantity}}
        headers = {"Idempotency-Key": key, "X-Admission-Token": self.admission}
        try:
            answer, _ = await self.client.call(
                "POST", "/api/tickets/reserve", body=body, headers=headers, timed="reserve"
            )
        except Problem as problem:
            if problem.code in NO_SEATS_NOW:
                self.tally.counts["seats_refused"] += 1
                return None
            if problem.code == "ADMISSION_INVALID":  # the time inside is over
                return None
            raise
        self.tally.accepted[answer["booking_id"]] = self.persona.number
        self.tally.counts["accepted"] += 1
        if self.persona.intent is Intent.RETRIES:
            await self._again("/api/tickets/reserve", body, headers, answer["booking_id"])
        return answer

    async def _again(self, path: str, body: dict[str, Any], headers: dict[str, str], booking_id: str) -> None:
        """The same request with the same key must find the same booking and say so."""
        answer, answer_headers = await self.client.call("POST", path, body=body, headers=headers)
        found = answer.get("booking_id") or answer["booking"]["booking_id"]
        self.tally.counts["replays"] += 1
        if found != booking_id or answer_headers.get("Idempotency-Replayed") != "true":
            self.tally.promise_broken(f"a repeat of {path} for {booking_id} answered {found}")

    async def _decided(self, booking_id: str) -> str:
        """The state after PENDING."""
        async for update in self.client.follow(f"/api/tickets/status/stream?booking_id={booking_id}"):
            state = str(update["booking"]["state"])
            if state != "PENDING":
                return state
        return await self.state_of(booking_id)

    async def state_of(self, booking_id: str) -> str:
        """The state of a booking, as its buyer sees it."""
        answer, _ = await self.client.call("GET", f"/api/tickets/status?booking_id={booking_id}")
        return str(answer["booking"]["state"])

    async def _pay_or_not(self, booking_id: str) -> None:
        if self.persona.intent is Intent.ABANDONS:
            self.tally.counts["abandoned"] += 1
            return
        if self.persona.intent is Intent.DECLINED_FIRST:
            await self._declined(booking_id)
        method = "tok_late" if self.persona.intent is Intent.LATE_CARD else "tok_approve"
        body = {"booking_id": booking_id, "payment_method": method}
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        try:
            answer, _ = await self.client.call("POST", "/api/tickets/pay", body=body, headers=headers, timed="confirm")
        except Problem as problem:
            if problem.code not in ("BOOKING_EXPIRED", "BOOKING_NOT_PAYABLE"):
                raise
            self.tally.counts["paid_too_late"] += 1
            return
        if self.persona.intent is Intent.RETRIES:
            await self._again("/api/tickets/pay", body, headers, booking_id)
        booking = answer["booking"]
        if booking["state"] != "CONFIRMED":
            self.tally.counts["settled_later"] += 1
            booking = await self._settled(booking_id)
        if booking["state"] == "CONFIRMED":
            self.confirmed = True
            self.tally.bought(booking_id, booking["ticket_ids"])

    async def _declined(self, booking_id: str) -> None:
        body = {"booking_id": booking_id, "payment_method": "tok_decline"}
        try:
            await self.client.call(
                "POST", "/api/tickets/pay", body=body, headers={"Idempotency-Key": secrets.token_hex(16)}
            )
        except Problem as problem:
            if problem.code == "PAYMENT_DECLINED":
                self.tally.counts["declined"] += 1
                return
            raise
        self.tally.promise_broken(f"a declined card paid for {booking_id}")

    async def _settled(self, booking_id: str) -> dict[str, Any]:
        """The booking once its open payment is settled."""
        booking: dict[str, Any] = {}
        async for update in self.client.follow(f"/api/tickets/status/stream?booking_id={booking_id}"):
            booking = update["booking"]
            if booking["state"] in FINAL:
                break
        return booking
