"""Looks at a finished sale from outside of the crowd: the auditor, the seats, the push provider's book."""

import asyncio
import json
from typing import Any

import aiohttp

from deploy.local import seeding
from deploy.local.asynchronous import LocalStack
from deploy.local.demo.buyer import Buyer
from deploy.local.demo.report import Ending

# The last confirmations are still on their way when the last buyer has paid.
PUSHES_WITHIN_SECONDS = 20.0


async def inspect(stack: LocalStack, event_id: int, buyers: list[Buyer], states: dict[str, int]) -> Ending:
    """Collects what the verdict needs; waits for the pushes that are due."""
    due = sum(buyer.pushes_due for buyer in buyers)
    async with aiohttp.ClientSession() as session:
        pushes = await _pushes(session, stack.url("sns"), due)
        availability = await _get(session, f"{stack.url('edge')}/api/events/{event_id}/availability")
    return Ending(
        states=states,
        seats_sold=availability["seats_total"] - availability["seats_left"],
        pushes=pushes,
        pushes_expected=due,
        audit=await _audit(stack, event_id),
        demand=sum(buyer.persona.quantity for buyer in buyers if buyer.persona.buys),
    )


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        response.raise_for_status()
        return await response.json(content_type=None)  # the stand-in for SNS calls its JSON JavaScript


async def _pushes(session: aiohttp.ClientSession, sns: str, due: int) -> int:
    """Messages that the stand-in for SNS took, once all that are due are there or time is up."""
    deadline = asyncio.get_running_loop().time() + PUSHES_WITHIN_SECONDS
    while True:
        book = await _get(session, f"{sns}/moto-api/data.json")
        taken = sum(len(endpoint["messages"]) for endpoint in book.get("sns", {}).get("PlatformEndpoint", []))
        if taken >= due or asyncio.get_running_loop().time() > deadline:
            return taken
        await asyncio.sleep(0.5)


async def _audit(stack: LocalStack, event_id: int) -> dict[str, Any]:
    """The auditor's report: it compares Redis, MySQL and payments, and knows nothing of the crowd."""
    arguments = ["audit", "--event", str(event_id), "--json"]
    report: dict[str, Any] = json.loads(
        await asyncio.to_thread(seeding.run_command, stack.stack, "inventory", arguments)
    )
    return report
