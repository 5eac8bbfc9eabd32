"""The sale itself: the crowd signs up, waits for the opening, and everyone does what they came for."""

import asyncio
import ipaddress
import secrets
from collections import Counter
from typing import Any

import aiohttp

from deploy.local.demo.buyer import Buyer
from deploy.local.demo.client import Client
from deploy.local.demo.progress import Progress
from deploy.local.demo.scenario import Persona
from deploy.local.demo.tally import Tally
from deploy.local.demo.waiting import CLAIM_WINDOW

# Sign-up is bound by argon2 on the server; more at once would only wait there.
SIGN_UPS_AT_ONCE = 16
# Those who come early do so within this time, which is over a little before the opening; the others within this time
# after it.
ARRIVAL_SECONDS = 4.0
CALM_SECONDS = 2.0
# Larger crowds take longer to come.
ARRIVALS_PER_SECOND = 500
# Accounts in one call for passes.
_PASSES_AT_ONCE = 1000
# The network that is set aside for benchmarks (RFC 2544).
_HOMES = ipaddress.IPv4Network("198.18.0.0/15")
GENERAL_LANE, MEMBERS_LANE = 0, 1
LANE_NAMES = {GENERAL_LANE: "general", MEMBERS_LANE: "members"}
_WEIGHTS = {GENERAL_LANE: 1, MEMBERS_LANE: 3}


def policy(buyers: int) -> dict[str, Any]:
    """Lets everyone in within about fourteen seconds: long enough that who missed a call can be called once more."""
    return {
        "mode": "OPEN",
        "rate_per_second": max(10.0, buyers / 14),
        "inside_cap": max(20, buyers * 4 // 5),
        "claim_window_seconds": int(CLAIM_WINDOW.total_seconds()),
        "admission_seconds": 120,
        "lanes": {"lanes": [{"lane": lane, "name": LANE_NAMES[lane], "weight": _WEIGHTS[lane]} for lane in LANE_NAMES]},
    }


def arrival_seconds(buyers: int) -> float:
    """How long it takes until all who come early, or all who come late, are there."""
    return max(ARRIVAL_SECONDS, buyers / ARRIVALS_PER_SECOND)


async def sign_everyone_up(
    people: list[Persona], session: aiohttp.ClientSession, base_url: str, tally: Tally
) -> list[Buyer]:
    """Makes an account for everybody; answers the buyers."""
    run = secrets.token_hex(4)
    buyers = [Buyer(each, Client(session, base_url, tally, address=_home(each)), tally) for each in people]
    gate = asyncio.Semaphore(SIGN_UPS_AT_ONCE)

    async def one(buyer: Buyer) -> None:
        async with gate:
            await buyer.sign_up(run)

    await asyncio.gather(*(one(buyer) for buyer in buyers))
    return buyers


def _home(persona: Persona) -> str:
    """An address of one's own: a crowd behind a single one would be held up by the limit of joins per address."""
    return str(_HOMES[persona.number % _HOMES.num_addresses])


async def prepare_line(operator: Client, event_id: int, buyers: list[Buyer]) -> None:
    """Sets how people are let in, and gives passes to those who may join the priority lane."""
    path = f"/api/events/{event_id}/queue"
    await operator.call("PATCH", f"{path}/policy", body=policy(len(buyers)))
    entitled = [buyer.user_id for buyer in buyers if buyer.persona.has_pass]
    passes: dict[int, str] = {}
    for at in range(0, len(entitled), _PASSES_AT_ONCE):
        body = {"user_ids": entitled[at : at + _PASSES_AT_ONCE]}
        answer, _ = await operator.call("POST", f"{path}/lanes/{MEMBERS_LANE}/passes", body=body)
        passes |= {int(each["user_id"]): each["lane_pass"] for each in answer["passes"]}
    for buyer in buyers:
        buyer.comes_to(event_id, passes.get(buyer.user_id, ""))


async def hold_sale(buyers: list[Buyer], tally: Tally, progress: Progress, opens_in: float, limit: float) -> None:
    """Lets everyone attend, before or after the opening.

    Whoever is not done `limit` seconds after the opening is a broken promise, not an endless run.
    """
    progress.phase = "before the opening"
    asyncio.get_running_loop().call_later(opens_in, progress.enter, "on sale")

    async def one(buyer: Buyer, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await buyer.attend()
        except Exception as error:  # noqa: BLE001 - whatever stopped this buyer, the sale has failed them
            tally.promise_broken(f"buyer {buyer.persona.number} ({buyer.persona.intent}): {error!r}")

    pause = arrival_seconds(len(buyers)) / max(1, len(buyers))
    tasks = [
        asyncio.create_task(one(buyer, number * pause + (0 if buyer.persona.is_early else opens_in)))
        for number, buyer in enumerate(buyers)
    ]
    _, late = await asyncio.wait(tasks, timeout=opens_in + limit)
    for task in late:
        task.cancel()
    if late:
        tally.promise_broken(f"{len(late)} buyers were still waiting {limit:.0f} s after the opening")
        await asyncio.wait(late)


async def final_states(buyers: list[Buyer], tally: Tally, limit: float) -> dict[str, int]:
    """How the accepted bookings ended; waits up to `limit` seconds for abandoned ones to expire.

    A booking that was promised and that its buyer cannot read is LOST.
    """
    by_number = {buyer.persona.number: buyer for buyer in buyers}
    states: dict[str, str] = {}
    deadline = asyncio.get_running_loop().time() + limit
    while True:
        open_ids = [b for b in tally.accepted if states.get(b, "PENDING") in ("PENDING", "RESERVED")]
        found = await asyncio.gather(
            *(by_number[tally.accepted[b]].state_of(b) for b in open_ids), return_exceptions=True
        )
        states.update({b: "LOST" if isinstance(s, BaseException) else s for b, s in zip(open_ids, found, strict=True)})
        if not {"PENDING", "RESERVED"} & set(states.values()) or asyncio.get_running_loop().time() > deadline:
            return dict(Counter(states.values()))
        await asyncio.sleep(0.5)
