"""Looks at a finished sale from outside of the crowd: the auditor, the seats, the push provider's book."""

import asyncio
import json
from collections import Counter
from datetime import datetime
from typing import Any

import aiohttp

from deploy.local import seeding
from deploy.local.asynchronous import LocalStack
from deploy.local.demo import drawing, fairness
from deploy.local.demo.buyer import Buyer
from deploy.local.demo.report import Ending
from deploy.local.demo.sale import LANE_NAMES

# The last confirmations and settlements are still on their way when the last buyer has paid.
WITHIN_SECONDS = 20.0


async def inspect(
    stack: LocalStack, event_id: int, opened: datetime, buyers: list[Buyer], states: dict[str, int]
) -> Ending:
    """Collects what the verdict needs; waits for the pushes that are due."""
    due = set[tuple[str, str]]().union(*(buyer.pushes_due for buyer in buyers))
    async with aiohttp.ClientSession() as session:
        pushed = await _pushed(session, stack.url("sns"), due)
        availability = await _get(session, f"{stack.url('edge')}/api/events/{event_id}/availability")
    return Ending(
        states=states,
        seats_sold=availability["seats_total"] - availability["seats_left"],
        pushes=pushed.total(),
        pushes_missing=len(due - pushed.keys()),
        queue_jumpers=fairness.queue_jumpers(buyers),
        lanes=fairness.lane_summaries(buyers, LANE_NAMES, opened),
        forecasts=fairness.forecasts(buyers),
        drawing=await drawing.verify(stack.url("edge"), event_id, buyers),
        audit=await _audit(stack, event_id),
        demand=sum(buyer.persona.quantity for buyer in buyers if buyer.persona.buys),
    )


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        response.raise_for_status()
        return await response.json(content_type=None)  # the stand-in for SNS calls its JSON JavaScript


async def _pushed(session: aiohttp.ClientSession, sns: str, due: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Messages that the stand-in for SNS took, by (device, kind), once all that are due are there or time is up."""
    deadline = asyncio.get_running_loop().time() + WITHIN_SECONDS
    while True:
        book = await _get(session, f"{sns}/moto-api/data.json")
        taken = Counter(
            # Only the link of a confirmation names a booking.
            (endpoint["token"], "confirmed" if "booking=" in message else "called")
            for endpoint in book.get("sns", {}).get("PlatformEndpoint", [])
            for message in endpoint["messages"].values()
        )
        if due <= taken.keys() or asyncio.get_running_loop().time() > deadline:
            return taken
        await asyncio.sleep(0.5)


async def _audit(stack: LocalStack, event_id: int) -> dict[str, Any]:
    """The auditor's report: it compares Redis, MySQL and payments, and knows nothing of the crowd.

    The sale is over, so nothing may be open any more: no grace. What is being settled gets a moment to end.
    """
    arguments = ["audit", "--event", str(event_id), "--json", "--grace", "0", "--money-grace", "0"]
    deadline = asyncio.get_running_loop().time() + WITHIN_SECONDS
    while True:
        output = await asyncio.to_thread(seeding.run_command, stack.stack, "inventory", arguments, (0, 1))
        report: dict[str, Any] = json.loads(output)
        if report["clean"] or asyncio.get_running_loop().time() > deadline:
            return report
        await asyncio.sleep(1)
