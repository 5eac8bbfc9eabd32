"""The steps of a run: joining, opening, digesting, watching."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from bench import load, usage
from bench.load import Job
from bench.queue import digests, joins, stores
from bench.queue.joins import Crowd, Outcome, RefusedError
from bench.queue.meter import Meter
from bench.queue.result import Digesting, Joining, Opening, Result, Watching
from bench.queue.stores import Cost
from bench.queue.venue import Account, Venue
from bench.queue.watchers import Audience

# Accounts of those who are in line, of those who come later, and of those who join through REST.
FIRST: Final = 1_000_000
LATER: Final = 100_000_000
TRICKLE: Final = 200_000_000
_CONNECTIONS: Final = 512
_JOINED: Final = 201
_OK: Final = 200
# People called and joining per second while watchers are measured: what a shop of this size lets in.
RATE: Final = 50.0
_JOINS_PER_SECOND: Final = 20.0
# Queue and inventory remember for two seconds each when a sale opens.
_NOTICE: Final = timedelta(seconds=6)
_HELD_WITHIN: Final = timedelta(minutes=10)
# Where those stand who join the draw, and those who join the line.
_KEYS: Final = {"draw": "entrants", "line": "users"}
_SCRATCH: Final = "bench:scratch"


@dataclass(frozen=True)
class Scale:
    """How large a run is. `people` wait in line in the end."""

    people: int
    watchers: int

    @property
    def lengths(self) -> tuple[int, int, int]:
        return self.people // 100, self.people // 10, self.people

    @property
    def accounts(self) -> int:
        """How many have tokens: all who watch, and enough to join through REST for some seconds."""
        return min(30_000, max(self.watchers, self.people // 20))

    @property
    def audiences(self) -> tuple[int, ...]:
        return (0, max(1, self.watchers * 2 // 19), self.watchers) if self.is_large else (0, self.watchers)

    @property
    def is_large(self) -> bool:
        """Whether there is time for figures that can be believed; a small run only shows that all of it works."""
        return self.people > 100_000

    @property
    def seconds(self) -> float:
        """How long a state that does not change is looked at."""
        return 20.0 if self.is_large else 2.0

    @property
    def settling(self) -> float:
        """How long something new is given before it is looked at."""
        return 3.0 if self.is_large else 1.0

    def window(self, length: int) -> int:
        """How many joins are timed at a length of the line: a tenth, and not for less than some seconds."""
        return min(max(length // 2, 1_000), 30_000)


class Run:
    """The steps of a run, each of which adds what it found to the result."""

    def __init__(self, venue: Venue, redis: Redis, pool: Executor, scale: Scale, result: Result) -> None:
        self._venue = venue
        self._redis = redis
        self._pool = pool
        self.scale = scale
        self.result = result

    async def apart(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a load in a process of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *arguments))

    # --- joining ---------------------------------------------------------------------------------------------------

    async def fill(self, event_id: int, have: int, want: int, first: int = FIRST) -> int:
        """Has people join until so many have; answers how many."""
        if want > have:
            await self.apart(joins.join, self._venue.queue_target, event_id, Crowd(first + have, want - have))
        return max(have, want)

    async def timed(self, where: str, event_id: int, crowd: Crowd) -> None:
        """Times the joins of a crowd behind those who have joined before."""
        meter = Meter(self._venue.stack)
        outcome: Outcome = await self.apart(joins.join, self._venue.queue_target, event_id, crowd)
        used = meter.read(outcome.cpu_seconds)
        line = f"queue:{{{event_id}}}:{_KEYS[where]}"
        waiting = await self._redis.zcard(line)
        ceiling = await self._ceiling(line, Crowd(LATER * 3, crowd.number))
        self.result.joins.append(
            Joining(
                where,
                waiting - crowd.number,
                round(outcome.per_second),
                round(ceiling.per_second),
                used.per(crowd.number, 1e6),
                used.strangers,
            )
        )

    async def _ceiling(self, line: str, crowd: Crowd) -> Outcome:
        await self._redis.copy(line, _SCRATCH, replace=True)
        outcome: Outcome = await self.apart(joins.add, self._venue.redis_url, _SCRATCH, crowd)
        await self._redis.unlink(_SCRATCH)
        return outcome

    async def through_rest(self, open_lines: tuple[int, int], accounts: list[Account]) -> None:
        """Joins through the edge: by people whose tokens are new to it, then by the same people elsewhere."""
        new, seen = (f"POST /api/events/{event_id}/queue" for event_id in open_lines)
        before, _ = await self._send("GET /livez", accounts, _OK)
        joined, _ = await self._send(new, accounts, _JOINED)
        again, cpu = await self._send(seen, accounts, _JOINED)
        after, constant_cpu = await self._send("GET /livez", accounts, _OK)
        constant = (before + after) / 2
        self.result.rest = {
            "joins, new tokens": joined,
            "joins, seen tokens": again,
            "the same edge answering a constant": constant,
            "ratio, seen tokens": again / constant,
        }
        self.result.rest |= {f"µs of CPU per join, seen tokens: {name}": value for name, value in cpu.items()}
        self.result.rest |= {"µs of CPU per constant: edge": constant_cpu["edge"]}

    async def _send(self, line: str, accounts: list[Account], status: int) -> tuple[float, dict[str, float]]:
        """Answers per second, and microseconds of CPU for each, by process."""
        requests = joins.requests(line, f"{self._venue.host}:{self._venue.port}", accounts)
        meter = Meter(self._venue.stack)
        outcome = await self.apart(load.drive, Job(self._venue.host, self._venue.port, requests, _CONNECTIONS))
        if outcome.count(status) != len(accounts):
            raise RefusedError(f"{line}: every answer should have been {status}: {dict(outcome.statuses)}")
        cpu = meter.read(outcome.cpu_seconds).per(len(accounts), 1e6)
        return outcome.per_second, {name: used for name, used in cpu.items() if used >= 1}

    # --- the draw ----------------------------------------------------------------------------------------------------

    async def open(self, event_id: int, entrants: int) -> None:
        """Opens the sale, and waits until everybody has a place."""
        opening = datetime.now(tz=UTC) + _NOTICE
        await self._venue.open_at(event_id, opening)
        await asyncio.sleep((opening - datetime.now(tz=UTC)).total_seconds() - 1)
        pauses: list[Cost] = []
        meter = Meter(self._venue.stack)
        async with stores.longest(self._redis, pauses):
            while (draw := await self._venue.draw(event_id))["state"] != "HELD":
                if datetime.now(tz=UTC) > opening + _HELD_WITHIN:
                    raise TimeoutError(f"the draw is still {draw['state']}")
                await asyncio.sleep(0.25)
            seconds = (datetime.now(tz=UTC) - opening).total_seconds()
        if int(draw["entrant_count"]) != entrants:
            raise RefusedError(f"{draw['entrant_count']} of {entrants} took part in the draw")
        self.result.opening = Opening(entrants, round(seconds, 1), meter.read().cpu, pauses[0])

    # --- digest and watchers -----------------------------------------------------------------------------------------

    async def digest(self, event_id: int) -> None:
        """What digests cost while nothing happens but calls."""
        async with digests.subscribed(self._venue.queue_target, event_id) as subscriber:
            await subscriber.next()
            meter = Meter(self._venue.stack)
            scripts = await stores.costs(self._redis, self.scale.seconds)
            used = meter.read()
            told = subscriber.told[-1]
        cpu = used.per(used.seconds, 1e3)
        self.result.digests.append(Digesting(told.total, told.size, scripts, self.scale.seconds, cpu))

    async def watch(self, event_id: int, accounts: list[Account]) -> None:
        """Costs and lateness with nobody, with some and with all watching."""
        host, port = self._venue.host, self._venue.port
        requests = joins.requests(f"GET /api/events/{event_id}/queue/stream", f"{host}:{port}", accounts, b"")
        async with Audience() as audience:
            for number in self.scale.audiences:
                if number > audience.number:
                    await audience.gather(host, port, requests[audience.number : number])
                self.result.watching.append(await self._watched(event_id, audience))

    async def _watched(self, event_id: int, audience: Audience) -> Watching:
        async with digests.subscribed(self._venue.queue_target, event_id) as subscriber:
            await self._venue.policy(event_id, mode="OPEN", rate_per_second=RATE)
            await asyncio.sleep(self.scale.settling)
            await audience.seen()
            meter = Meter(self._venue.stack, audience.cpu_seconds)
            commands = await stores.commands(self._redis)
            await asyncio.sleep(self.scale.seconds)
            commands = await stores.commands(self._redis) - commands
            used = meter.read()
            seen = await audience.seen()
            late = digests.lateness(subscriber.told, seen)
            meter = Meter(self._venue.stack, audience.cpu_seconds)
            fresh = await self._changed(event_id, audience, subscriber) if audience.number else []
            strangers = max(used.strangers, meter.read().strangers)
            total = subscriber.told[-1].total
        return Watching(
            audience.number,
            total,
            usage.resident_bytes(self._venue.stack, "edge"),
            used.per(used.seconds, 1e3),
            round(commands / used.seconds, 1),
            round(len(seen.times) / used.seconds, 1),
            seen.lost,
            digests.spread(late) if len(late) > 1 else None,
            digests.spread(fresh) if len(fresh) > 1 else None,
            strangers,
        )

    async def _changed(self, event_id: int, audience: Audience, subscriber: digests.Subscriber) -> list[float]:
        """Holds the line, has people join, and looks when watchers are told of them."""
        await self._venue.policy(event_id, mode="HOLD")
        await asyncio.sleep(self.scale.settling)
        await audience.seen()
        first = TRICKLE + audience.number * 1_000
        joined = await digests.trickle(
            self._venue.queue_target, event_id, first, _JOINS_PER_SECOND, min(10.0, self.scale.seconds)
        )
        await asyncio.sleep(self.scale.settling + 1)
        told = digests.since(subscriber.told, joined[0] - 2)
        return digests.freshness(told, await audience.seen(), joined)
