"""One lifecycle for every process: construct on one exit stack, serve, drain, unwind in reverse.

SIGTERM and SIGINT: report NOT_SERVING, pause until balancers have seen it, stop accepting, let calls in flight end
within `drain_seconds`, cancel background tasks, close what was opened. A second signal ends the process at once.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NoReturn, TypeVar

import uvloop
from prometheus_client import start_http_server

from services.common import logs, metrics, telemetry
from services.common.cancellation import cancel
from services.common.health import Check, Health
from services.common.settings import CommonSettings, split_address

T = TypeVar("T")
Loop = Callable[[], Awaitable[None]]
# Stops accepting and returns when what was in flight has ended, or after so many seconds.
Drain = Callable[[float], Awaitable[None]]
Wire = Callable[["Lifecycle"], Coroutine[None, None, None]]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
# A task that ran this long before it failed begins again with the shortest pause.
_CALM_AFTER: Final = 60.0
# Balancers that ask for health see NOT_SERVING within this time; a share of the drain, so that tests are short.
_NOTICE_SHARE: Final = 0.05
_NOTICE_LONGEST: Final = 0.5

_log = logging.getLogger(__name__)


class Lifecycle:
    """What wiring registers: resources, background tasks, readiness checks, and how to drain."""

    def __init__(self) -> None:
        self.health = Health()
        # Set when draining begins: long streams end themselves, so that they do not use up the grace.
        self.draining = asyncio.Event()
        # Where this process can be reached, logged once when it has started: {"grpc_port": 50051}.
        self.addresses: dict[str, object] = {}
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._drains: list[Drain] = []

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Opens a resource that is closed at shutdown, after everything opened later."""
        return await self._stack.enter_async_context(context)

    def defer(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has `close` called at shutdown, in its place in the reverse order."""
        self._stack.push_async_callback(close)

    def on_drain(self, drain: Drain) -> None:
        """Has `drain` called, with the seconds that are left, when the process shall stop accepting work."""
        self._drains.append(drain)

    def ready_when(self, name: str, check: Check, *, once: bool = False) -> None:
        """Holds NOT_SERVING until `check` has returned once; it is repeated every 2 s, and given 2 s to answer.

        When it fails later, that is NOT_SERVING again, unless `once`: for what some of the work can be done without.
        """
        self.health.add_check(name, check, once=once)

    def background(self, name: str, loop: Loop) -> None:
        """Runs `loop` beside the server; cancelled after the drain, before any resource is closed.

        When it raises, that is logged and counted, and it starts again after a pause that grows from 0.1 to 30 s.
        """
        self._tasks.append(asyncio.create_task(_supervise(name, loop), name=name))

    async def drain(self, seconds: float) -> None:
        """Reports NOT_SERVING, stops accepting, and waits for what is in flight, `seconds` at most."""
        deadline = asyncio.get_running_loop().time() + seconds
        await self.health.close()
        self.draining.set()
        await asyncio.sleep(min(seconds * _NOTICE_SHARE, _NOTICE_LONGEST))
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        # One that fails must not have resources closed under the others.
        outcomes = await asyncio.gather(*(drain(left) for drain in self._drains), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                _log.error("could not drain", exc_info=outcome)

    async def close(self) -> None:
        """Cancels background tasks, then closes everything in reverse order."""
        await cancel(self._tasks)
        await self._stack.aclose()


async def _supervise(name: str, loop: Loop) -> None:
    clock = asyncio.get_running_loop().time
    pause = _FIRST_PAUSE
    while True:
        started = clock()
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 - a supervisor exists for whatever may happen
            pause = _FIRST_PAUSE if clock() - started > _CALM_AFTER else pause
            metrics.BACKGROUND_RESTARTS.labels(name).inc()
            _log.exception("background task failed", extra={"fields": {"task": name, "again_in_seconds": pause}})
            telemetry.record_fault(name, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        else:
            return


@asynccontextmanager
async def running(wire: Wire, drain_seconds: float = 10.0) -> AsyncIterator[Lifecycle]:
    """A wired process as a context: constructed on entry, drained and closed on exit, whatever fails half-way."""
    lifecycle = Lifecycle()
    try:
        await wire(lifecycle)
        await lifecycle.health.open()
        lifecycle.background("health", lifecycle.health.watch)
        yield lifecycle
        await lifecycle.drain(drain_seconds)
    finally:
        await lifecycle.close()


def run(name: str, settings: CommonSettings, wire: Wire) -> NoReturn:
    """Runs the process `name` until a signal; exits with 0 after a drain, with 1 when it could not start."""
    logs.configure(name, settings.log_level)
    if settings.otlp_endpoint:
        telemetry.configure_otlp(name, settings.trace_ratio, settings.otlp_endpoint)
    metrics.BUILD.info({"service": name, "version": _version()})
    status = uvloop.run(_main(settings, wire))
    telemetry.shutdown()
    sys.stdout.flush()
    raise SystemExit(status)


async def _main(settings: CommonSettings, wire: Wire) -> int:
    try:
        await _serve(settings, wire, _stop_on_signals())
    except _StoppedWhileStarting:
        _log.info("stopped while starting")
    except Exception as error:  # noqa: BLE001 - logged, and told to the supervisor by the exit status
        _log.critical("cannot run", exc_info=error, extra={"fields": {"error": f"{type(error).__name__}: {error}"}})
        return 1
    return 0


async def _serve(settings: CommonSettings, wire: Wire, stop: asyncio.Event) -> None:
    async def wire_all(lifecycle: Lifecycle) -> None:
        lifecycle.addresses["metrics_port"] = await lifecycle.enter(_metrics_server(settings.metrics_listen))
        await _unless(stop, wire(lifecycle))

    async with running(wire_all, settings.drain_seconds) as lifecycle:
        _log.info("started", extra={"fields": lifecycle.addresses})
        await stop.wait()
        _log.info("stopping")
    _log.info("stopped")


class _StoppedWhileStarting(Exception):
    """A signal came before everything was wired."""


async def _unless(stop: asyncio.Event, wiring: Coroutine[None, None, None]) -> None:
    """Awaits `wiring`, but cancels it when a signal comes first: what cannot start must be able to stop."""
    wired = asyncio.create_task(wiring)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({wired, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not wired.done():
        wired.cancel()
        await asyncio.wait({wired})
        raise _StoppedWhileStarting
    wired.result()


@asynccontextmanager
async def _metrics_server(listen: str) -> AsyncIterator[int]:
    """Serves Prometheus from a thread of its own, and yields the port."""
    host, port = split_address(listen)
    server, thread = start_http_server(port, host)
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            _log.warning("second signal: ending at once")
            sys.stdout.flush()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def _version() -> str:
    try:
        return version("boxoffice")
    except PackageNotFoundError:  # Run from a work tree.
        return "0"
