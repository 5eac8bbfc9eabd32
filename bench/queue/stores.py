"""What Redis says of itself: memory, commands, and the time that each script takes inside of it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common.lua import Script

_SERVICES: Final = Path(__file__).parents[2] / "services"
# Entries of the log of commands, which holds every command while costs are looked at.
_LOG_LENGTH: Final = 20_000
# The server's own default, in microseconds.
_USUAL_THRESHOLD: Final = 10_000


@dataclass(frozen=True)
class Cost:
    """Microseconds inside of Redis, of so many commands or scripts."""

    calls: int
    total: float
    most: float


async def used_memory(redis: Redis) -> int:
    """Bytes that hold data and what is needed to find it."""
    return int((await redis.info("memory"))["used_memory_dataset"])


async def commands(redis: Redis) -> int:
    """Commands carried out so far, those inside of scripts among them."""
    found: dict[str, Any] = await redis.info("commandstats")
    return sum(each["calls"] for name, each in found.items() if name not in _OURS)


# What the bench itself asks.
_OURS: Final = {"cmdstat_info", "cmdstat_slowlog|get", "cmdstat_config|set", "cmdstat_ping"}


async def costs(redis: Redis, seconds: float) -> dict[str, Cost]:
    """What the scripts of each room of queue cost, and all other commands as "other", seen for so long."""
    async with _every_command(redis, 0):
        await asyncio.sleep(seconds)
        return _by_room(await redis.slowlog_get(_LOG_LENGTH))


@asynccontextmanager
async def longest(redis: Redis, found: list[Cost]) -> AsyncIterator[None]:
    """Appends the cost of the commands that took more than a millisecond while the block ran."""
    async with _every_command(redis, 1000):
        yield
        entries: list[dict[str, Any]] = await redis.slowlog_get(_LOG_LENGTH)
        found.append(_cost([entry["duration"] for entry in entries] or [0]))


@asynccontextmanager
async def _every_command(redis: Redis, threshold: int) -> AsyncIterator[None]:
    await redis.config_set("slowlog-max-len", _LOG_LENGTH)
    await redis.slowlog_reset()
    await redis.config_set("slowlog-log-slower-than", threshold)
    try:
        yield
    finally:
        await redis.config_set("slowlog-log-slower-than", _USUAL_THRESHOLD)
        await redis.slowlog_reset()


def _by_room(entries: list[dict[str, Any]]) -> dict[str, Cost]:
    scripts = {Script.load(path).sha: path.parents[1].name for path in _SERVICES.glob("queue/*/lua/*.lua")}
    durations = defaultdict[str, list[float]](list)
    for entry in entries:
        words = entry["command"].split()
        name = scripts.get(words[1].decode(), "other") if words[0].upper() == b"EVALSHA" else "other"
        durations[name].append(entry["duration"])
    return {name: _cost(each) for name, each in durations.items()}


def _cost(durations: list[float]) -> Cost:
    return Cost(len(durations), sum(durations), max(durations))
