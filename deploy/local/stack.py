"""One stack: starts its processes in order of dependency, knows whether they serve, and ends what it started."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from types import TracebackType
from typing import Self

from deploy.local import packages, ports, processes
from deploy.local.packages import say
from deploy.local.paths import STACKS
from deploy.local.processes import Running
from deploy.local.readiness import NotReady
from deploy.local.servers import SERVERS
from deploy.local.services import SERVICES
from deploy.local.site import EventLogKind, ProcessSpec, Site, write_private

# A JVM and ten Python processes that start together on two busy cores.
START_WITHIN = timedelta(seconds=120)
_POLL_SECONDS = 0.05
_TAIL_LINES = 15


class StackError(Exception):
    """A process of the stack did not start or did not stay; the text ends with the last lines of its log."""


class Stack:
    """A named stack below `.boxoffice/stacks`. All calls block; `LocalStack` is the same for asyncio.

    Args:
        name: names the folder; stacks of different names run beside each other.
        events: which event log to run. Without `kafka` no JVM starts.
        settings: environment variables for Boxoffice's own processes, over the defaults.
        specs: the processes; servers and services unless told otherwise.
    """

    def __init__(
        self,
        name: str,
        *,
        events: EventLogKind = "kafka",
        settings: Mapping[str, str] | None = None,
        specs: Sequence[ProcessSpec] = (*SERVERS, *SERVICES),
    ) -> None:
        self.name = name
        self.site = Site(STACKS / name, events, settings or {})
        wanted = [spec for spec in specs if events == "kafka" or spec.name != "kafka"]
        self.specs = {spec.name: spec for spec in wanted}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- starting ------------------------------------------------------------------------------------------------

    def up(self, names: Iterable[str] | None = None) -> None:
        """Starts the named processes (all unless told otherwise) and what they need; returns when all serve.

        What already runs is left alone. When one fails, all that this call started are ended again.

        Raises:
            StackError: a process ended or did not serve in time.
            PackageError: a server's package cannot be had.
        """
        wanted = self._with_dependencies(names or self.specs)
        missing = [name for name in wanted if not self.running(name)]
        try:
            self._start_together(wanted)
            self._all_alive(wanted)
        except BaseException:
            for name in reversed(missing):
                self.stop(name)
            raise
        finally:
            self._given_up.clear()
        self._describe()

    def _start_together(self, names: Sequence[str]) -> None:
        serving = {name: threading.Event() for name in names}
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            jobs = [pool.submit(self._start_in_order, name, serving) for name in names]
            try:
                wait(jobs)
            except BaseException:  # an interrupt: the pool waits for its threads, so they have to stop
                self._given_up.set()
                raise
        failures = [error for job in jobs if (error := job.exception())]
        # The first that is a cause, not a consequence.
        for error in sorted(failures, key=lambda error: isinstance(error, _GivenUp)):
            raise error

    def start(self, name: str) -> None:
        """Starts one process, whose dependencies must run; returns when it serves. It gets the ports it had before."""
        self._start(self.specs[name])
        self._describe()

    def _with_dependencies(self, names: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}

        def visit(name: str) -> None:
            for dependency in self.specs[name].after:
                if dependency in self.specs:
                    visit(dependency)
            found[name] = None

        for name in names:
            visit(name)
        return list(found)

    def _start_in_order(self, name: str, serving: Mapping[str, threading.Event]) -> None:
        spec = self.specs[name]
        try:
            for dependency in spec.after:
                while dependency in serving and not serving[dependency].wait(_POLL_SECONDS):
                    self._keep_going()
            self._start(spec)
            serving[name].set()
        except BaseException:
            self._given_up.set()
            raise

    def _keep_going(self) -> None:
        if self._given_up.is_set():
            raise _GivenUp

    def give_up(self) -> None:
        """Makes an `up` that runs in another thread stop at its next step and end what it started."""
        self._given_up.set()

    def _start(self, spec: ProcessSpec) -> None:
        if self.running(spec.name):
            return
        began = time.monotonic()
        self.site.log(spec.name).parent.mkdir(parents=True, exist_ok=True)
        spec.prepare(self.site)
        self._keep_going()
        child = processes.spawn(
            spec.command(self.site), spec.environment(self.site), self.site.log(spec.name), self.site.folder
        )
        self._children[spec.name] = child
        processes.record(child, self.site.log(spec.name), self.site.pid_file(spec.name))
        self._wait_until_serving(spec)
        say(f"{self.name}: {spec.name} serves after {time.monotonic() - began:.1f} s")

    def _wait_until_serving(self, spec: ProcessSpec) -> None:
        deadline = time.monotonic() + START_WITHIN.total_seconds()
        while True:
            self._keep_going()
            if not self.running(spec.name):
                raise StackError(self._obituary(spec.name, "ended while starting"))
            try:
                return spec.ready(self.site)
            except NotReady as state:
                if time.monotonic() > deadline:
                    raise StackError(self._obituary(spec.name, f"does not serve ({state})")) from state
            time.sleep(_POLL_SECONDS)

    def _all_alive(self, names: Iterable[str]) -> None:
        for name in names:
            if not self.running(name):
                raise StackError(self._obituary(name, "ended right after it had started"))

    def _obituary(self, name: str, what: str) -> str:
        child = self._children.get(name)
        status = f" with status {child.returncode}" if child and child.poll() is not None else ""
        return f"{name} {what}{status}; the last lines of {self.site.log(name)}:\n{self.tail(name)}"

    def tail(self, name: str) -> str:
        """Returns the last lines that the process wrote."""
        log = self.site.log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (nothing)"

    # --- looking -------------------------------------------------------------------------------------------------

    def running(self, name: str) -> Running | None:
        """Returns the process when it runs."""
        child = self._children.get(name)
        if child is not None:
            return processes.of_child(child, self.site.log(name))
        process = processes.recorded(self.site.pid_file(name))
        return process if process and process.alive else None

    def url(self, name: str) -> str:
        """Returns the URL of a server, of `eventlog` or of `edge`, or a service's host:port."""
        return self.urls()[name]

    def urls(self) -> dict[str, str]:
        """Returns all addresses by name. The one of MariaDB carries its password."""
        site = self.site
        known: dict[str, Callable[[], str]] = {
            "valkey": site.redis_url,
            "mariadb": lambda: site.mysql_url("").rstrip("/"),
            "kafka": site.eventlog_url,
            "sns": lambda: f"http://{site.address('sns', 'http')}",
            "edge": lambda: f"http://{site.address('edge', 'http')}",
        }
        found = {name: known[name]() if name in known else site.address(name, "grpc") for name in self.specs}
        return {**found, "eventlog": site.eventlog_url()}

    def _describe(self) -> None:
        described = {name: process.__dict__ for name in self.specs if (process := self.running(name))}
        text = json.dumps(
            {"name": self.name, "events": self.site.events, "urls": self.urls(), "processes": described}, indent=2
        )
        write_private(self.site.folder / "stack.json", text)

    # --- ending --------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """Kills one process and its group with SIGKILL, as a crash would; returns when it is gone."""
        if process := self.running(name):
            processes.kill([process])
        self._reap(name)

    def stop(self, name: str) -> None:
        """Ends one process in good order; returns when it is gone."""
        if process := self.running(name):
            processes.end([process], self.specs[name].grace)
        self._reap(name)

    def down(self) -> None:
        """Ends every process of this stack, whoever started it: first those that stand on others. Data stays."""
        self._stop_together([name for name, spec in self.specs.items() if spec.after])
        self._stop_together([name for name, spec in self.specs.items() if not spec.after])
        # What has no pid file: the supervisor died in between, or a process left its group.
        processes.end(processes.marked(self.site.folder), timedelta(seconds=10))
        (self.site.folder / "stack.json").unlink(missing_ok=True)

    def _stop_together(self, names: Sequence[str]) -> None:
        if names:
            with ThreadPoolExecutor(max_workers=len(names)) as pool:
                list(pool.map(self.stop, names))

    def _reap(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
        self.site.pid_file(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Ends the stack and deletes its folder: data, logs, secrets and ports."""
        self.down()
        shutil.rmtree(self.site.folder, ignore_errors=True)
        ports.release(self.site.folder)


class _GivenUp(Exception):
    """Another process failed, so this one does not start."""


def session_name(prefix: str) -> str:
    """Returns a stack name that tells whose it is: this very process', by pid and start time."""
    return f"{prefix}-{os.getpid()}-{processes.start_time(os.getpid())}"


def remove_dead_sessions(prefix: str) -> None:
    """Ends and deletes the stacks named by `session_name` whose process is gone."""
    for folder in STACKS.glob(f"{prefix}-*"):
        owner = re.search(r"-(\d+)-(\d+)$", folder.name)
        if owner and not Running(int(owner[1]), int(owner[2]), "").alive:
            Stack(folder.name).remove()


def choose_events(asked: str | None) -> EventLogKind:
    """Decides which event log to run: the one asked for, else Kafka, else Redis Streams where Kafka cannot run.

    Raises:
        PackageError: Kafka was asked for, or this is CI, and it cannot run; or the name is unknown.
    """
    if asked not in (None, "", "kafka", "redis"):
        raise packages.PackageError(f"EVENTS is kafka or redis, not {asked}")
    if asked == "redis":
        return "redis"
    missing = packages.kafka_missing()
    if missing is None:
        return "kafka"
    if asked == "kafka" or os.environ.get("CI") == "true":
        raise packages.PackageError(f"Apache Kafka cannot run: {missing}")
    say(f"takes Redis Streams as the event log: {missing}")
    return "redis"
