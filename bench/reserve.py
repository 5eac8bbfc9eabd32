"""How many reservations a second the whole shop accepts and makes durable, beside the ceilings of the same run.

One event, one seat per buyer, as many buyers as seats: nobody is refused, and everything accepted must become a row of
MySQL. `new` tokens have never been shown to the edge, which verifies them (RS256); `seen` ones have, as those of
everybody who came through the line.
"""

import asyncio
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta

import aiohttp

from bench import ceilings, load, usage
from bench.load import Job, Outcome
from bench.shop import Buyer, Shop
from deploy.local import LocalStack
from deploy.local.site import EventLogKind
from services.common.mysql import open_database

_ACCEPTED = 202
_OK = 200
_CONNECTIONS = 512
_DRAIN_WITHIN = timedelta(seconds=60)
_RESERVED = (
    "SELECT COUNT(*), MIN(create_time), MAX(update_time) FROM bookings WHERE event_id = %s AND state = 'RESERVED'"
)
_STEADY_SECONDS = 5
_CALM_PER_SECOND = 5.0
_CALM_SECONDS = 10


@dataclass(frozen=True)
class Phase:
    """One way of asking, and what came of it. Times are milliseconds."""

    name: str
    accepted_per_second: float
    durable_per_second: float
    p50: float
    p99: float
    durable_p50: float
    durable_p99: float
    # Microseconds of CPU per reservation, by process: what a busy machine changes least.
    cpu: dict[str, float]
    # Seconds of CPU that strangers took of each second of ours: above 0.1 the rates say little about Boxoffice.
    strangers: float


@dataclass
class Result:
    """Everything that one run measured, ready for JSON."""

    events: str
    buyers: int
    constant_per_second: float = 0.0
    constant_cpu: float = 0.0
    ratio: float = 0.0
    phases: list[Phase] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    audit: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class OversoldError(Exception):
    """The shop did not keep a promise while it was measured."""


class _Bench:
    def __init__(self, shop: Shop, pool: ProcessPoolExecutor, seats: int) -> None:
        self._shop = shop
        self._pool = pool
        self._seats = seats
        self.events: list[int] = []

    async def constant(self, buyers: list[Buyer]) -> tuple[float, float]:
        """Answers a second, and microseconds of the edge's CPU for each."""
        before = usage.cpu_seconds(self._shop.stack)["edge"]
        outcome = await self._send(self._shop.constants(1, buyers))
        _check(outcome, _OK)
        used = usage.cpu_seconds(self._shop.stack)["edge"] - before
        return outcome.per_second, used / len(buyers) * 1e6

    async def phase(self, name: str, buyers: list[Buyer], rate: float = 0.0) -> Phase:
        event_id = await self._open()
        requests = self._shop.reservations(event_id, buyers)
        before, durable_before = usage.cpu_seconds(self._shop.stack), await usage.hold_to_durable(self._shop.stack)
        machine = usage.machine_seconds()
        outcome = await self._send(requests, rate)
        _check(outcome, _ACCEPTED)
        durable_per_second = await self._durable(event_id, len(buyers))
        durable = (await usage.hold_to_durable(self._shop.stack)).since(durable_before)
        seconds = usage.grown(before, usage.cpu_seconds(self._shop.stack)) | {"client": outcome.cpu_seconds}
        ours = sum(seconds.values())
        strangers = max(0.0, usage.machine_seconds() - machine - ours) / ours
        latencies = statistics.quantiles(outcome.latencies, n=100)
        return Phase(
            name,
            accepted_per_second=round(outcome.per_second, 1),
            durable_per_second=round(durable_per_second, 1),
            p50=_ms(latencies[49]),
            p99=_ms(latencies[98]),
            durable_p50=_ms(durable.quantile(0.50)),
            durable_p99=_ms(durable.quantile(0.99)),
            cpu={name: round(used / len(buyers) * 1e6, 1) for name, used in seconds.items()},
            strangers=round(strangers, 2),
        )

    async def _open(self) -> int:
        event_id = await self._shop.event(self._seats)
        self.events.append(event_id)
        # The first look at an event brings its seats into Redis.
        url = f"http://{self._shop.host}:{self._shop.port}/api/events/{event_id}/availability"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            response.raise_for_status()
        return event_id

    async def _send(self, requests: list[bytes], rate: float = 0.0) -> Outcome:
        job = Job(self._shop.host, self._shop.port, requests, _CONNECTIONS, rate)
        return await asyncio.get_running_loop().run_in_executor(self._pool, load.drive, job)

    async def _durable(self, event_id: int, expected: int) -> float:
        """Waits until all are RESERVED; the rate from the first hold to the last commit."""
        deadline = time.monotonic() + _DRAIN_WITHIN.total_seconds()
        async with open_database(self._shop.mysql_url, pool_size=1) as db:
            while True:
                row = await db.retrying(lambda tx: tx.fetch_one(_RESERVED, (event_id,)))
                assert row is not None
                number, first, last = row
                if number == expected:
                    return float(expected / (last - first).total_seconds())
                if number > expected or time.monotonic() > deadline:
                    raise OversoldError(f"{number} of {expected} accepted bookings are RESERVED")
                await asyncio.sleep(0.2)


def _check(outcome: Outcome, status: int) -> None:
    if outcome.count(status) != len(outcome.latencies):
        raise OversoldError(f"every answer should have been {status}: {dict(outcome.statuses)}")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


async def measure(events: EventLogKind, buyers: int) -> Result:
    """One whole run on a stack of its own, which is deleted afterwards."""
    result = Result(events, buyers)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        async with LocalStack(f"bench-{os.getpid()}", events=events) as stack:
            shop = Shop(stack)
            people = await shop.buyers(buyers)
            bench = _Bench(shop, pool, buyers)
            await _drive(bench, people, result)
            result.ceilings = {
                "hold.lua, pipelines of 256": await ceilings.holds(shop, buyers),
                "event log, records of 256": await ceilings.appends(shop, buyers * 10),
                "ledger transactions of 256": await ceilings.commits(shop, buyers),
            }
            result.audit = await _audit(shop, bench.events)
    return result


async def _drive(bench: _Bench, people: list[Buyer], result: Result) -> None:
    # Before and after, since the machine may have become busier in between.
    constants = [await bench.constant(people)]
    result.phases.append(await bench.phase("peak, new tokens", people))
    result.phases.append(peak := await bench.phase("peak, seen tokens", people))
    constants.append(await bench.constant(people))
    half = peak.accepted_per_second / 2
    steady = people[: int(half * _STEADY_SECONDS)]
    result.phases.append(await bench.phase("half of the peak", steady, half))
    calm = people[: int(_CALM_PER_SECOND * _CALM_SECONDS)]
    result.phases.append(await bench.phase("5 a second", calm, _CALM_PER_SECOND))
    result.constant_per_second = round(statistics.mean(rate for rate, _ in constants), 1)
    result.constant_cpu = round(statistics.mean(cpu for _, cpu in constants), 1)
    result.ratio = round(peak.accepted_per_second / result.constant_per_second, 3)


async def _audit(shop: Shop, events: list[int]) -> dict[str, object]:
    """The auditor's numbers, summed over the events. Raises SeedError when it found anything."""
    reports = [await shop.audit(event_id) for event_id in events]
    names = ("oversold", "leaked", "paid_without_ticket", "undecided")
    return {name: sum(int(str(report[name])) for report in reports) for name in names if name in reports[0]}


def table(result: Result) -> str:
    """For people."""
    lines = [f"reservations: event log {result.events}, {result.buyers:,} buyers, one seat each, one event per row", ""]
    lines += [f"{'':22}{'accepted/s':>11}{'durable/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'hold→durable p50':>18}{'p99':>8}"]
    for phase in result.phases:
        lines.append(
            f"{phase.name:22}{phase.accepted_per_second:11,.0f}{phase.durable_per_second:11,.0f}{phase.p50:9.1f}"
            f"{phase.p99:9.1f}{phase.durable_p50:18.1f}{phase.durable_p99:8.1f}"
        )
    lines += ["", f"{'ceilings of this run':42}{'per second':>12}"]
    lines += [f"{'edge, a constant (GET /livez, same bytes)':42}{result.constant_per_second:12,.0f}"]
    lines += [f"{name:42}{value:12,.0f}" for name, value in result.ceilings.items()]
    lines += ["", f"accepted ÷ constant, seen tokens: {result.ratio:.2f} (aim: 0.40)", ""]
    lines += [f"{'µs of CPU per request':22}{'all':>7}{'strangers':>11}   by process"]
    lines += [f"{'a constant':22}{result.constant_cpu:7.0f}{'':14}edge {result.constant_cpu:.0f}"]
    for phase in result.phases[:2]:
        used = "  ".join(f"{name} {micros:.0f}" for name, micros in phase.cpu.items() if micros >= 5)
        lines.append(f"{phase.name:22}{sum(phase.cpu.values()):7.0f}{phase.strangers:10.0%}    {used}")
    lines += ["", "auditor: " + "  ".join(f"{name} {value}" for name, value in result.audit.items())]
    return "\n".join(lines)
