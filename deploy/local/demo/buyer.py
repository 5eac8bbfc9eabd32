"""One buyer's way from sign-up to ticket, over HTTP, told step by step."""

import asyncio
import itertools
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

from deploy.local.demo.client import Client, Problem
from deploy.local.demo.scenario import Intent, Persona
from deploy.local.demo.tally import Tally
from deploy.local.demo.waiting import SALE_OVER, Waiting

FINAL = {"CONFIRMED", "REJECTED", "EXPIRED", "CANCELLED", "REFUNDED"}
# Seconds until somebody without seats looks again: people do not tap twice a second until a seat comes back.
FIRST_PAUSES = (0.5, 1.0)
LAST_PAUSE = 2.0
NO_SEATS_NOW = {"SEATS_TAKEN", "NO_ADJACENT_SEATS", "SOLD_OUT"}


@dataclass(slots=True)
class Buyer:
    """A persona with a phone, in front of one sale."""

    persona: Persona
    phone: Client
    tally: Tally
    event_id: int = 0
    user_id: int = 0
    email: str = ""
    password: str = ""
    device: str = ""
    admission: str = ""
    confirmed: bool = False
    waiting: Waiting = field(init=False)

    @property
    def client(self) -> Client:
        """The device in use now."""
        return self.waiting.client

    def __post_init__(self) -> None:
        self.waiting = Waiting(self.persona, self.phone, self.event_id, self.tally, self._sign_in)

    async def sign_up(self, run: str) -> None:
        """Makes the account and registers the device."""
        self.email, self.password = f"buyer{self.persona.number}.{run}@example.com", secrets.token_urlsafe(12)
        body = {"email": self.email, "password": self.password}
        answer, _ = await self.client.call("POST", "/api/auth/signup", body=body, timed="signup")
        self.client.token = answer["tokens"]["access_token"]
        self.user_id = answer["account"]["user_id"]
        self.tally.counts["signed_up"] += 1
        if self.persona.has_device:
            self.device = f"device-{run}-{self.persona.number:06d}"
            body = {"device_token": self.device, "platform": "ANDROID"}
            await self.client.call("POST", "/api/notifications/register", body=body)
            self.tally.counts["devices"] += 1

    async def _sign_in(self) -> Client:
        """Another device of the same person, signed in."""
        device = replace(self.phone, token="")
        body = {"email": self.email, "password": self.password}
        answer, _ = await device.call("POST", "/api/auth/login", body=body)
        device.token = answer["tokens"]["access_token"]
        return device

    def comes_to(self, event_id: int, lane_pass: str) -> None:
        """Says which line this person will stand in, and with which pass, if any."""
        self.event_id = self.waiting.event_id = event_id
        self.waiting.lane_pass = lane_pass

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
            await self.waiting.try_to_jump()
        if not await self.waiting.join():
            self.tally.counts["turned_away"] += 1
            return
        self.tally.counts["joined"] += 1
        if self.persona.keeps_receipt:
            await self.waiting.keep_receipt()
        if self.persona.intent is Intent.LEAVES_LINE:
            await self.waiting.leave()
            self.tally.counts["left"] += 1
            return
        if self.persona.intent is Intent.CHANGES_DEVICE:
            await self.waiting.change_device()
        await self._take_turn()

    async def _take_turn(self) -> None:
        while await self.waiting.until_called():
            if await self._claim():
                await self._shop()
                return
        self.tally.counts["turned_away"] += 1

    async def _claim(self) -> bool:
        """Whether the call was claimed in time; who was too late may be called once more."""
        try:
            claim, _ = await self.client.call("POST", f"{self.waiting.path}/claim", body={}, timed="claim")
        except Problem as problem:
            if problem.code != "PLACE_NOT_READY":
                raise
            return False
        self.admission = claim["admission_token"]
        self.tally.counts["admitted"] += 1
        if self.persona.keeps_receipt and self.waiting.seen.entered_draw:
            await self.waiting.keep_receipt()
        return True

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
            answer, _ = await self.client.call("GET", f"{self.waiting.path}/me")
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
