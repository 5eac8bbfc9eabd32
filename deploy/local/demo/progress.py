"""Shows a running sale: a live table in a terminal, a plain line every few seconds elsewhere."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.local.demo.tally import Tally

ROWS = (
    ("signed up", "signed_up"),
    ("joined", "joined"),
    ("admitted", "admitted"),
    ("reserved", "accepted"),
    ("declined", "declined"),
    ("abandoned", "abandoned"),
    ("turned away", "turned_away"),
    ("second chances", "second_chances"),
    ("skips refused", "skips_refused"),
)


class _Screen(Protocol):
    def show(self, phase: str, tally: Tally, seats: int, elapsed: float) -> None: ...


class _Terminal:
    """Redraws one table in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, phase: str, tally: Tally, seats: int, elapsed: float) -> None:
        table = Table(title=f"{phase} · {elapsed:.0f} s", min_width=44)
        table.add_column("what")
        table.add_column("count", justify="right")
        for label, name in ROWS:
            table.add_row(label, f"{tally.counts[name]:,}")
        sold = len(tally.tickets)
        width = 24 * sold // max(1, seats)
        table.add_row("seats bought", f"{'█' * width}{'░' * (24 - width)} {sold:,}/{seats:,}")
        self._live.update(table)


class _Lines:
    """Prints one line every few seconds, for logs and pipes."""

    PAUSE = 3.0

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, phase: str, tally: Tally, seats: int, elapsed: float) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed + self.PAUSE
        told = "  ".join(f"{label} {tally.counts[name]}" for label, name in ROWS[:4])
        print(
            f"[{elapsed:5.1f} s] {phase}: {told}  seats bought {len(tally.tickets)}/{seats}",
            file=sys.stderr,
            flush=True,
        )


class Progress:
    """What is being shown; `phase` is set by whoever runs the sale."""

    def __init__(self, tally: Tally, seats: int) -> None:
        self.phase = "starting"
        self._tally = tally
        self.seats = seats
        self._started = time.monotonic()

    def enter(self, phase: str) -> None:
        """Sets the phase, as a callback."""
        self.phase = phase

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator["Progress"]:
        """Shows progress while the block runs."""
        console = Console(stderr=True)
        with contextlib.ExitStack() as stack:
            if console.is_terminal:
                screen: _Screen = _Terminal(stack.enter_context(Live(console=console, refresh_per_second=4)))
            else:
                screen = _Lines()
            task = asyncio.create_task(self._draw(screen))
            try:
                yield self
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _draw(self, screen: _Screen) -> None:
        while True:
            screen.show(self.phase, self._tally, self.seats, time.monotonic() - self._started)
            await asyncio.sleep(0.25)
