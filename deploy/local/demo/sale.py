"""The sale itself: the crowd signs up, the sale opens, everyone does what they came for."""

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

# Sign-up is bound by argon2 on the server; more at once would only wait there.
SIGN_UPS_AT_ONCE = 16
# The crowd arrives within this many seconds of the opening.
ARRIVAL_SECONDS = 4.0
# The network that is set aside for benchmarks (RFC 2544).
_HOMES = ipaddress.IPv4Network("198.18.0.0/15")


async def sign_everyone_up(
    people: list[Persona], session: aiohttp.ClientSession, base_url: str, event_id: int, tally: Tally
) -> list[Buyer]:
    """Makes an account for everybody; answers the buyers, ready to join."""
    run = secrets.token_hex(4)
    buyers = [
        Buyer(persona, Client(session, base_url, tally, address=_home(persona)), event_id, tally) for persona in people
    ]
    gate = asyncio.Semaphore(SIGN_UPS_AT_ONCE)

    async def one(buyer: Buyer) -> None:
        async with gate:
            await buyer.sign_up(run)

    await asyncio.gather(*(one(buyer) for buyer in buyers))
    return buyers


def _home(persona: Persona) -> str:
    """An address of one's own: a crowd behind a single one would be held up by the limit of joins per address."""
    return str(_HOMES[persona.number % _HOMES.num_addresses])


async def hold_sale(buyers: list[Buyer], tally: Tally, progress: Progress, limit: float) -> None:
    """Lets everyone attend. Whoever is not done after `limit` seconds is a broken promise, not an endless run."""
    progress.phase = "on sale"

    async def one(buyer: Buyer, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await buyer.attend()
        except Exception as error:  # noqa: BLE001 - whatever stopped this buyer, the sale has failed them
            tally.promise_broken(f"buyer {buyer.persona.number} ({buyer.persona.intent}): {error!r}")

    pause = ARRIVAL_SECONDS / max(1, len(buyers))
    tasks = [asyncio.create_task(one(buyer, number * pause)) for number, buyer in enumerate(buyers)]
    _, late = await asyncio.wait(tasks, timeout=limit)
    for task in late:
        task.cancel()
    if late:
        tally.promise_broken(f"{len(late)} buyers were still waiting after {limit:.0f} s")
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


async def open_line(operator: Client, event_id: int, policy: dict[str, Any]) -> None:
    """Sets how fast people are let in."""
    await operator.call("PATCH", f"/api/events/{event_id}/queue/policy", body=policy)
