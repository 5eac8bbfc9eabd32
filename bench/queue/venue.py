"""The waiting room that is measured: a stack of its own, sales, and accounts whose tokens are signed as auth does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from bench.shop import Shop, access_token
from deploy.local import LocalStack, seeding
from services.auth.keys import SigningKeys
from services.common.mysql import open_database
from services.common.redis import open_redis

_OPERATOR = 7
_SEATS = 10_000
_A_DAY = 86_400
_OPENING = "UPDATE events SET sale_open_time = %s WHERE event_id = %s"


@dataclass(frozen=True)
class Account:
    user_id: int
    token: str


def mint(key_file: Path, user_ids: Sequence[int]) -> list[Account]:
    """Signs in so many people; half a millisecond of a core for each, so it is done in processes beside the start."""
    keys = SigningKeys.read(key_file)
    return [Account(user_id, access_token(keys, user_id)) for user_id in user_ids]


def address_of(user_id: int) -> str:
    """An address of the person's own, so that limits per address are paid for, yet stop nobody."""
    return f"10.{user_id >> 16 & 255}.{user_id >> 8 & 255}.{user_id & 255}"


class Venue:
    """A running stack and what is needed to fill its waiting room."""

    def __init__(self, stack: LocalStack) -> None:
        site = stack.stack.site
        self.stack = stack
        self._shop = Shop(stack)
        self.host, self.port = self._shop.host, self._shop.port
        self.queue_target = site.address("queue", "grpc")
        self.redis_url = stack.stack.specs["queue"].environment(site)["BOXOFFICE_REDIS_URL"]
        self.key_file = site.folder / "secrets" / "signing-key.pem"
        self._operator = access_token(SigningKeys.read(self.key_file), _OPERATOR, "operator")

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        async with open_redis(self.redis_url) as redis:
            yield redis

    async def sale(self, *, opened: bool) -> int:
        """A new event, on sale since a second ago or from tomorrow on."""
        opens_in = -1 if opened else _A_DAY
        arguments = ["seed", "--seats", str(_SEATS), "--opens-in", str(opens_in), "--name", "Bench"]
        return int(await asyncio.to_thread(seeding.run_command, self.stack.stack, "inventory", arguments))

    async def open_at(self, event_id: int, moment: datetime) -> None:
        """Moves the opening. Queue hears of it within four seconds: it and inventory remember an event for two each."""
        async with open_database(self._shop.mysql_url, pool_size=1) as db:
            opening = moment.astimezone(UTC).replace(tzinfo=None)
            await db.retrying(lambda tx: tx.execute(_OPENING, (opening, event_id)))

    async def policy(self, event_id: int, **changes: Any) -> None:
        """Changes how the line is run, as an operator does."""
        await self._call("PATCH", f"/api/events/{event_id}/queue/policy", changes)

    async def draw(self, event_id: int) -> dict[str, Any]:
        """What anybody may know of the draw."""
        return await self._call("GET", f"/api/events/{event_id}/queue/draw")

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._operator}"}
        url = f"http://{self.host}:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, json=body, headers=headers) as got:
            got.raise_for_status()
            found: dict[str, Any] = await got.json()
            return found
