"""What one run found, ready for JSON, and told as tables."""

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.queue.digests import Spread
from bench.queue.stores import Cost


@dataclass(frozen=True)
class Joining:
    """Joins at one length of the line; microseconds of CPU per join, by process."""

    where: str
    waiting: int
    per_second: float
    ceiling_per_second: float
    cpu: dict[str, float]
    # Seconds of CPU that strangers took of each second of ours: above 0.1 the rates say little about Boxoffice.
    strangers: float

    @property
    def ratio(self) -> float:
        return self.per_second / self.ceiling_per_second


@dataclass(frozen=True)
class Digesting:
    """What a digest costs at one length of the line: once a second and event, whoever watches."""

    waiting: int
    size: int
    # Inside of Redis, by room of queue, in so many seconds.
    scripts: dict[str, Cost]
    seconds: float
    # Milliseconds of CPU per second, by process, while nobody joins and nobody watches.
    cpu: dict[str, float]


@dataclass(frozen=True)
class Watching:
    """So many people who follow their places. Milliseconds of CPU per second by process."""

    watchers: int
    waiting: int
    edge_bytes: int
    cpu: dict[str, float]
    redis_commands_per_second: float
    messages_per_second: float
    lost: int
    lateness: Spread | None
    freshness: Spread | None
    strangers: float


@dataclass(frozen=True)
class Opening:
    """A draw: from the opening of the sale until everybody has a place."""

    entrants: int
    seconds: float
    # Seconds of CPU by process.
    cpu: dict[str, float]
    # Commands of Redis that took more than a millisecond: others waited for them. Microseconds.
    pauses: Cost


@dataclass
class Result:
    """Everything that one run measured."""

    events: str
    people: int
    joins: list[Joining] = field(default_factory=list)
    rest: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    digests: list[Digesting] = field(default_factory=list)
    watching: list[Watching] = field(default_factory=list)
    opening: Opening | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def bytes_per_watcher(self) -> float:
        """Memory of the edge, from none to the most watchers."""
        first, last = self.watching[0], self.watching[-1]
        return (last.edge_bytes - first.edge_bytes) / max(1, last.watchers - first.watchers)


def tables(result: Result) -> str:
    """For people."""
    parts = [_joins(result), _rest(result), _opening(result), _memory(result), _digests(result), _watching(result)]
    head = f"waiting room: {result.people:,} people, event log {result.events}"
    return "\n\n".join([head, *("\n".join(part) for part in parts if part)])


def _joins(result: Result) -> list[str]:
    lines = [
        f"{'joins':10}{'in line':>10}{'joins/s':>10}{'ZADD/s':>10}{'ratio':>7}{'strangers':>11}   µs of CPU per join"
    ]
    return lines + [
        f"{each.where:10}{each.waiting:10,}{each.per_second:10,.0f}{each.ceiling_per_second:10,.0f}{each.ratio:7.2f}"
        f"{each.strangers:11.0%}   {_used(each.cpu, 1)}"
        for each in result.joins
    ]


def _rest(result: Result) -> list[str]:
    lines = [f"{'through REST':44}{'per second':>12}"]
    return lines + [f"{name:44}{value:12,.2f}" for name, value in result.rest.items()]


def _opening(result: Result) -> list[str]:
    if result.opening is None:
        return []
    found = result.opening
    return [
        f"draw of {found.entrants:,}: held {found.seconds:.1f} s after the opening",
        f"  seconds of CPU  {_used(found.cpu, 0.1, 2)}",
        f"  {found.pauses.calls} commands of Redis took more than 1 ms, the longest {found.pauses.most / 1000:.1f} ms",
    ]


def _memory(result: Result) -> list[str]:
    return [f"{name:44}{value:12,.0f}" for name, value in result.memory.items()]


def _digests(result: Result) -> list[str]:
    lines = [f"{'digest':10}{'in line':>10}{'bytes':>10}   µs in Redis per second (longest)"]
    for each in result.digests:
        redis = "  ".join(
            f"{name} {cost.total / each.seconds:,.0f} ({cost.most:,.0f})" for name, cost in each.scripts.items()
        )
        lines.append(f"{'':10}{each.waiting:10,}{each.size:10,}   {redis}")
    lines += ["", f"{'':10}{'in line':>10}   ms of CPU per second while nobody joins and nobody watches"]
    lines += [f"{'':10}{each.waiting:10,}   {_used(each.cpu, 0.5)}" for each in result.digests]
    return lines


def _watching(result: Result) -> list[str]:
    if not result.watching:
        return []
    lines = [
        f"{'watchers':>8}{'edge MB':>9}{'messages/s':>12}{'Redis cmd/s':>13}{'strangers':>11}   ms of CPU per second"
    ]
    lines += [
        f"{each.watchers:8,}{each.edge_bytes / 1e6:9.1f}{each.messages_per_second:12,.0f}"
        f"{each.redis_commands_per_second:13,.0f}{each.strangers:11.0%}   {_used(each.cpu, 0.5)}"
        for each in result.watching
    ]
    lines += ["", f"{result.bytes_per_watcher() / 1000:.1f} kB of the edge per watcher"]
    lines += [_spread(each.watchers, "digest → message", each.lateness) for each in result.watching if each.lateness]
    lines += [_spread(each.watchers, "change → message", each.freshness) for each in result.watching if each.freshness]
    return lines


def _spread(watchers: int, what: str, found: Spread) -> str:
    return f"{watchers:8,}  {what}, ms:  p50 {found.p50:,.0f}  p99 {found.p99:,.0f}  most {found.most:,.0f}"


def _used(cpu: dict[str, float], least: float, digits: int = 1) -> str:
    return "  ".join(f"{name} {value:.{digits}f}" for name, value in cpu.items() if value >= least)
