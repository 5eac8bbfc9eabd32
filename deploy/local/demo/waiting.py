"""One person's stay in line: joining, watching, being called; and what they saw of it, for the verdict."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.local.demo.client import Client, Problem
from deploy.local.demo.scenario import Intent, Persona
from deploy.local.demo.tally import Tally

# How long a called person of this sale may take to claim.
CLAIM_WINDOW = timedelta(seconds=15)
SALE_OVER = {"SOLD_OUT", "CLOSED"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The first range that was told after the opening: eight in ten are called between the two, in whole seconds."""

    time: datetime
    p10: int
    p90: int

    def holds(self, called: datetime) -> bool:
        """Whether a call at that time is inside. Who was called while the message was on its way waited no time."""
        return self.p10 <= max(0.0, (called - self.time).total_seconds()) <= self.p90


@dataclass(slots=True)
class Seen:
    """What the line told one person."""

    joined_at: str = ""
    """Time of joining on the server's clock, RFC 3339; empty for who has no place."""
    entered_draw: bool = False
    lane: int = 0
    score: int = 0
    """What orders the lane; 0 while in the draw."""
    called_at: datetime | None = None
    """The first call."""
    missed_unseen: bool = False
    """The first call came and went between two looks: when it was is not known."""
    told: Forecast | None = None
    receipts: list[str] = field(default_factory=list)

    def look(self, place: Mapping[str, Any], now: datetime) -> None:
        """Takes note of one answer."""
        self.lane = place.get("lane", 0)
        self.score = int(place.get("score", 0)) or self.score
        if self.called_at is None:
            if place["state"] in {"READY", "ADMITTED"} and place.get("claim_expire_time"):
                self.called_at = datetime.fromisoformat(place["claim_expire_time"]) - CLAIM_WINDOW
            elif place.get("call_again_time"):
                self.missed_unseen = True
        if (
            self.told is None
            and place["state"] == "WAITING"
            and place["sale_state"] == "OPEN"
            and place.get("position")
        ):
            self.told = Forecast(now, int(place.get("eta_p10_seconds", 0)), int(place["eta_p90_seconds"]))


@dataclass(slots=True)
class Waiting:
    """A persona in front of one line."""

    persona: Persona
    client: Client
    event_id: int
    tally: Tally
    sign_in_again: Callable[[], Awaitable[Client]]
    """Answers a client of the same person on another device."""
    lane_pass: str = ""
    seen: Seen = field(default_factory=Seen)
    signed_place: str = ""
    missed: bool = False

    @property
    def path(self) -> str:
        """Where the line is."""
        return f"/api/events/{self.event_id}/queue"

    async def join(self) -> bool:
        """Takes the place; False when the sale is over."""
        times = 2 if self.persona.intent is Intent.RETRIES else 1
        for _ in range(times):
            try:
                answer = await self._post({"lane_pass": self.lane_pass} if self.lane_pass else {})
            except Problem as problem:
                if problem.code in SALE_OVER or problem.code == "SALE_CLOSED":
                    return False
                raise
        self.signed_place = answer["signed_place"]
        self.seen.joined_at = answer["place"]["join_time"]
        self.seen.entered_draw = bool(answer["place"].get("in_draw"))
        self._look(answer["place"])
        return True

    async def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer, _ = await self.client.call("POST", self.path, body=body, timed="join")
        return answer

    async def keep_receipt(self) -> None:
        """Asks for a receipt of the place as it is now."""
        answer, _ = await self.client.call("GET", f"{self.path}/me/receipt")
        self.seen.receipts.append(answer["receipt"])

    async def leave(self) -> None:
        """Gives the place up."""
        await self.client.call("DELETE", f"{self.path}/me")
        self.seen.joined_at = ""

    async def try_to_jump(self) -> None:
        """Neither a forged place nor a forged pass may open anything."""
        for body, code in (
            ({"signed_place": "k1." + "A" * 80}, "PLACE_INVALID"),
            ({"lane_pass": "k1." + "A" * 80}, "LANE_PASS_INVALID"),
        ):
            self.tally.counts["skip_attempts"] += 1
            try:
                await self._post(body)
            except Problem as problem:
                self.tally.counts["skips_refused"] += problem.code == code
                continue
            self.tally.promise_broken(f"buyer {self.persona.number} joined with something forged")

    async def change_device(self) -> None:
        """Goes on with another device, which knows nothing but the signed place."""
        self.client = await self.sign_in_again()
        place = (await self._post({"signed_place": self.signed_place}))["place"]
        if (place["join_time"], place.get("lane", 0)) != (self.seen.joined_at, self.seen.lane):
            self.tally.promise_broken(f"buyer {self.persona.number} came back to another place")
        self.tally.counts["restored"] += 1

    async def until_called(self) -> bool:
        """True: called, and to be claimed now. False: over."""
        watch = self._follow if self.persona.follows_stream else self._poll
        return await watch()

    async def _follow(self) -> bool:
        async for update in self.client.follow(f"{self.path}/stream"):
            verdict = await self._my_turn(update["place"])
            if verdict is not None:
                return verdict
        return await self._poll()

    async def _poll(self) -> bool:
        while True:
            answer, _ = await self.client.call("GET", f"{self.path}/me", timed="poll")
            verdict = await self._my_turn(answer["place"])
            if verdict is not None:
                return verdict
            await asyncio.sleep(answer["place"]["poll_after_ms"] / 1000)

    async def _my_turn(self, place: Mapping[str, Any]) -> bool | None:
        """True: called. False: over. None: keep waiting."""
        self._look(place)
        if place["sale_state"] in SALE_OVER and place["state"] == "WAITING":
            return False
        if place.get("call_again_time"):
            await self._second_chance()
            return None
        if place["state"] not in {"READY", "ADMITTED"}:
            return None if place["state"] == "WAITING" else False
        self.tally.counts["second_chances"] += self.missed
        # Who is going to miss the first call does nothing about it.
        return True if self.missed or self.persona.intent is not Intent.MISSES_CALL else None

    async def _second_chance(self) -> None:
        """A call was missed: whoever joins again is called next."""
        if not self.missed:
            self.missed = True
            self.tally.counts["missed_calls"] += 1
            await self._post({})

    def _look(self, place: Mapping[str, Any]) -> None:
        self.seen.look(place, datetime.now(tz=UTC))
