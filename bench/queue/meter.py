"""How much of the machine a stretch of the run used, and who used it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import usage
from deploy.local import LocalStack


@dataclass(frozen=True)
class Used:
    """CPU seconds by process, most first; `strangers` is the share that others took on top of it."""

    seconds: float
    cpu: dict[str, float]
    strangers: float

    def per(self, number: float, unit: float) -> dict[str, float]:
        """CPU per item, in microseconds with a unit of 1e6, in milliseconds with 1e3."""
        return {name: round(used / number * unit, 2) for name, used in self.cpu.items()}


class Meter:
    """Counts from its making on. `loads` tells the CPU seconds of processes of ours that live on meanwhile."""

    def __init__(self, stack: LocalStack, loads: Callable[[], float] = lambda: 0.0) -> None:
        self._stack = stack
        self._loads = loads
        self._before = self._all()
        self._machine = usage.machine_seconds()
        self._began = time.monotonic()

    def _all(self) -> dict[str, float]:
        ours = os.times()
        return usage.cpu_seconds(self._stack) | {"bench": ours.user + ours.system, "load": self._loads()}

    def read(self, load: float = 0.0) -> Used:
        """What was used so far; `load` are the CPU seconds of a load that has told them itself."""
        machine = usage.machine_seconds() - self._machine
        seconds = time.monotonic() - self._began
        cpu = usage.grown(self._before, self._all())
        cpu["load"] += load
        ours = sum(cpu.values())
        return Used(seconds, cpu, round(max(0.0, machine - ours) / max(ours, 0.01), 2))
