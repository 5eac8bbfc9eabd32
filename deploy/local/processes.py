"""Starts processes and ends exactly those, even when whoever started them is gone.

Each process leads a session of its own, is recorded in a pid file together with its start time (pids are reused), and
carries the stack's folder in its environment: what a crash left without a pid file is found by that mark.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from deploy.local.paths import ROOT

MARK = "BOXOFFICE_LOCAL_STACK"
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Running:
    """A process of the stack, as its pid file records it."""

    pid: int
    started: int
    """Clock ticks after boot: with the pid it names one process for ever."""
    log: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """Returns when the process started, in clock ticks after boot, or None when it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path, stack: Path) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, writing to its log and marked as belonging to the stack."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, MARK: str(stack)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def of_child(child: subprocess.Popen[bytes], log: Path) -> Running | None:
    """Returns a child of this very process when it runs; one that ended is reaped."""
    started = start_time(child.pid) if child.poll() is None else None
    return None if started is None else Running(child.pid, started, str(log))


def record(child: subprocess.Popen[bytes], log: Path, file: Path) -> None:
    """Writes the pid file of a process just spawned, unless it has already ended."""
    running = of_child(child, log)
    if running is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(running)))
        unfinished.rename(file)


def recorded(file: Path) -> Running | None:
    """Reads a pid file; None when there is none."""
    try:
        return Running(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None


def marked(stack: Path) -> list[Running]:
    """Finds every live process that was started for the stack, or by one that was."""
    mark = f"{MARK}={stack}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and mark in _environment(folder).split(b"\0"):
            pid = int(folder.name)
            started = start_time(pid)
            if started is not None:
                found.append(Running(pid, started, ""))
    return found


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:  # it ended, or belongs to somebody else
        return b""


def send(process: Running, number: signal.Signals) -> None:
    """Signals the process and, when it leads a group, its whole group; nothing happens when it is gone."""
    if not process.alive:
        return
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)


def end(processes: Iterable[Running], within: timedelta) -> None:
    """Asks the processes to end, and kills those that have not done so in time."""
    waiting = list(processes)
    for process in waiting:
        send(process, signal.SIGTERM)
    if not gone(waiting, within):
        kill(waiting)


def kill(processes: Iterable[Running]) -> None:
    """Kills the processes with SIGKILL and returns when they are gone."""
    waiting = list(processes)
    for process in waiting:
        send(process, signal.SIGKILL)
    if not gone(waiting, timedelta(seconds=10)):
        raise TimeoutError(f"processes survived SIGKILL: {[process.pid for process in waiting if process.alive]}")


def gone(processes: Sequence[Running], within: timedelta) -> bool:
    """Waits until none of the processes runs; False when the time is over first."""
    deadline = time.monotonic() + within.total_seconds()
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
