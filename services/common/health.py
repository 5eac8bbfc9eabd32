"""Health that tells the truth: NOT_SERVING until every dependency has answered once, and while one does not answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from grpc_health.v1 import health, health_pb2

from services.common import metrics

Check = Callable[[], Awaitable[None]]

# The name under which the health service tells that the process answers at all: SERVING while it runs, whatever its
# dependencies do and also while it drains. A process is restarted by this one; restarting it for Redis mends nothing.
LIVENESS: Final = "liveness"
CHECK_EVERY: Final = timedelta(seconds=2)
_CHECK_TIMEOUT: Final = timedelta(seconds=2)
# Before the first success a dependency is asked more often, so that a start is not delayed by our own pause.
_CHECK_EVERY_AT_START: Final = timedelta(milliseconds=200)
# One missed answer is a hiccup; taking every replica out of service for it would be the greater harm.
_FAILURES_TOLERATED: Final = 1

_log = logging.getLogger(__name__)


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc] # the package ships no types
    """The standard service, whose watchers can be sent away: otherwise each would hold up a drain to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers: set[asyncio.Task[Any]] = set()
        self._ended = False

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - as gRPC names it
        """Tells every change until the watcher goes, or is sent away."""
        watcher = asyncio.current_task()
        assert watcher is not None
        self._watchers.add(watcher)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if not self._ended:
                raise
        finally:
            self._watchers.discard(watcher)

    def end_watches(self) -> None:
        """Ends every stream, with the status OK."""
        self._ended = True
        for watcher in self._watchers:
            watcher.cancel()


@dataclass(slots=True)
class _Dependency:
    check: Check
    once: bool
    # Whether it has ever answered.
    known: bool = False
    # Failures in a row.
    failures: int = 0

    @property
    def away(self) -> bool:
        return not self.known or self.failures > _FAILURES_TOLERATED

    @property
    def missed(self) -> bool:
        """Whether the process cannot serve for want of it."""
        return self.away and not (self.once and self.known)


class Health:
    """Whether this process serves, as the standard gRPC health service tells it, overall and per service."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self._dependencies: dict[str, _Dependency] = {}
        self._services = [health.OVERALL_HEALTH]
        self._opened = self._closed = False
        self._announced: bool | None = None

    @property
    def serving(self) -> bool:
        """True when wired, not draining, and every check holds."""
        return self._opened and not self._closed and not self.failing

    @property
    def failing(self) -> list[str]:
        """Names of the dependencies that do not answer, without which this process cannot serve."""
        return [name for name, dependency in self._dependencies.items() if dependency.missed]

    @property
    def degraded(self) -> list[str]:
        """Names of the dependencies that do not answer, without which it serves what it can."""
        return [name for name, dependency in self._dependencies.items() if dependency.away and not dependency.missed]

    async def add_service(self, name: str) -> None:
        """Reports this gRPC service by name too."""
        self._services.append(name)
        self._announced = None
        await self.announce()

    def add_check(self, name: str, check: Check, *, once: bool = False) -> None:
        """A dependency: `check` returns when it answers, and raises when it does not.

        With `once` it must have answered before this process serves, and its absence later is told, but no reason to
        serve nothing at all.
        """
        self._dependencies[name] = _Dependency(check, once)

    async def open(self) -> None:
        """Everything is constructed: from now on the checks decide."""
        self._opened = True
        await self.announce()

    async def close(self) -> None:
        """Draining: NOT_SERVING for good."""
        self._closed = True
        await self.announce()

    async def watch(self) -> None:
        """Checks every dependency, again and again."""
        while True:
            await self.check()
            waiting = not all(dependency.known for dependency in self._dependencies.values())
            await asyncio.sleep((_CHECK_EVERY_AT_START if waiting else CHECK_EVERY).total_seconds())

    async def check(self) -> None:
        """Checks every dependency once, all at the same time."""
        await asyncio.gather(*(_check(name, dependency) for name, dependency in self._dependencies.items()))
        await self.announce()

    async def announce(self) -> None:
        """Tells gRPC health, where the answer has changed."""
        serving = self.serving
        if serving is self._announced:
            return
        self._announced = serving
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if serving else statuses.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)


async def _check(name: str, dependency: _Dependency) -> None:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT.total_seconds()):
            await dependency.check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the dependency did not answer
        if dependency.failures == 0:
            fields = {"dependency": name, "error": f"{type(error).__name__}: {error}"}
            _log.warning("dependency does not answer", extra={"fields": fields})
        dependency.failures += 1
        metrics.DEPENDENCY_UP.labels(name).set(0)
    else:
        if dependency.failures or not dependency.known:
            _log.info("dependency answers", extra={"fields": {"dependency": name}})
        dependency.known, dependency.failures = True, 0
        metrics.DEPENDENCY_UP.labels(name).set(1)
