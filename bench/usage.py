"""What processes used: CPU seconds from /proc, and how long the worker says that bookings took."""

import os
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import LocalStack

_TICKS = os.sysconf("SC_CLK_TCK")
_DURABLE = "boxoffice_booking_durable_duration_seconds"


def cpu_seconds(stack: LocalStack) -> dict[str, float]:
    """User and system time of every process of the stack so far."""
    running = {name: stack.stack.running(name) for name in stack.stack.specs}
    return {name: cpu_of(process.pid) for name, process in running.items() if process}


def cpu_of(pid: int) -> float:
    """User and system time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(stack: LocalStack, name: str) -> int:
    """Memory that one process of the stack holds now."""
    process = stack.stack.running(name)
    assert process is not None
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_seconds() -> float:
    """CPU time that all processes of the machine took so far."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return sum(int(field) for field in fields[1:4]) / _TICKS


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was used in between, most first."""
    used = {name: round(after[name] - before.get(name, 0.0), 2) for name in after}
    return dict(sorted(used.items(), key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class Histogram:
    """Cumulative counts by upper bound in seconds."""

    counts: dict[float, float]

    def since(self, before: "Histogram") -> "Histogram":
        return Histogram({bound: count - before.counts.get(bound, 0) for bound, count in self.counts.items()})

    def quantile(self, share: float) -> float:
        """As Prometheus computes it: linear within a bucket."""
        bounds = sorted(self.counts)
        rank, below, lower = share * self.counts[bounds[-1]], 0.0, 0.0
        for bound in bounds:
            count = self.counts[bound]
            if count >= rank and count > below:
                return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound
        return lower


async def hold_to_durable(stack: LocalStack) -> Histogram:
    """The worker's own histogram: from the hold in Redis to the commit in MySQL."""
    address = stack.stack.site.address("inventory-worker", "metrics")
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as response:
        text = await response.text()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families if family.name == _DURABLE for sample in family.samples]
    return Histogram({float(s.labels["le"]): s.value for s in samples if s.name.endswith("_bucket")})
