"""Verifies the draw as any stranger can: with the published list and seed, and with the receipts that people keep."""

import asyncio
import hmac
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from deploy.local.demo.buyer import Buyer
from deploy.local.paths import ROOT

# Each costs a look at the whole lane of its owner.
_MOST_RECEIPTS = 200


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was found about the draw."""

    entrants: int
    verified: bool
    told: str
    """What the verifying command says."""
    receipts: int
    """Receipts that people kept, of before the draw and of after it, and that were verified with it."""
    unexplained: int
    """People on the published list who did not enter, or who entered and are not on it."""
    misplaced: int
    """People who were told another place than the one that the published key gives them."""


async def verify(edge: str, event_id: int, buyers: Iterable[Buyer]) -> Drawing:
    """Runs the verifying command against the edge, with every receipt that was kept."""
    buyers = list(buyers)
    # Who left is on no list, and was told to throw the receipt away.
    stayed = [buyer.waiting.seen for buyer in buyers if buyer.waiting.seen.joined_at]
    receipts = [receipt for seen in stayed for receipt in seen.receipts][:_MOST_RECEIPTS]
    async with aiohttp.ClientSession(edge) as session:
        draw = await _get(session, f"/api/events/{event_id}/queue/draw")
        entrants = await _entrants(session, event_id)
    status, told = await asyncio.to_thread(_run, edge, event_id, receipts)
    return Drawing(
        len(entrants),
        status == 0,
        told,
        len(receipts),
        unexplained(entrants, buyers),
        misplaced(bytes.fromhex(draw["draw_key"]), buyers),
    )


def unexplained(listed: Collection[int], buyers: Iterable[Buyer]) -> int:
    """How many accounts are on the list without having entered, or entered without being on it.

    Who left again at once may be on it or not: the list may have been closed in between.
    """
    entered = {buyer.user_id for buyer in buyers if buyer.waiting.seen.entered_draw}
    left = {buyer.user_id for buyer in buyers if not buyer.waiting.seen.joined_at}
    return len((set(listed) ^ entered) - left)


def misplaced(draw_key: bytes, buyers: Iterable[Buyer]) -> int:
    """How many of the draw were told another score than the first 50 bits of the HMAC of their account."""
    seen = [(buyer.user_id, buyer.waiting.seen) for buyer in buyers]
    return sum(
        each.score not in {0, int.from_bytes(hmac.digest(draw_key, str(user_id).encode(), "sha256")) >> (256 - 50)}
        for user_id, each in seen
        if each.entered_draw
    )


async def _entrants(session: aiohttp.ClientSession, event_id: int) -> list[int]:
    """The published list."""
    found: list[int] = []
    token = ""
    while True:
        page = await _get(session, f"/api/events/{event_id}/queue/draw/entrants", page_token=token)
        found += [int(line.split()[0]) for line in page["entrants"]]
        token = page.get("next_page_token", "")
        if not token:
            return found


async def _get(session: aiohttp.ClientSession, path: str, **parameters: str) -> dict[str, Any]:
    async with session.get(path, params={name: value for name, value in parameters.items() if value}) as response:
        response.raise_for_status()
        found: dict[str, Any] = await response.json()
        return found


def _run(edge: str, event_id: int, receipts: list[str]) -> tuple[int, str]:
    """Status of the command, and the first thing that it found wrong, or its verdict."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.txt" for number in range(len(receipts))]
        for file, receipt in zip(files, receipts, strict=True):
            file.write_text(receipt)
        command = [sys.executable, "-m", "services.queue", "verify-draw", "--url", edge, "--event", str(event_id)]
        kept = ["--receipt", *map(str, files)] if files else []
        done = subprocess.run([*command, *kept], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode, next(
        (line for line in lines if line.startswith(("FAILED", "UNSURE"))), lines[0] if lines else ""
    )
