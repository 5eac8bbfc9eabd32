"""`python -m deploy.local.demo`: one sale from an empty machine to a verdict.

`BUYERS` (1,000), `SEATS` (400) and `EVENTS` (kafka or redis) change it. Writes report.json; ends with status 0 only if
every invariant held and every seat that could be sold was sold.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp

from deploy.local import seeding
from deploy.local.asynchronous import LocalStack
from deploy.local.demo import sale
from deploy.local.demo.client import Client
from deploy.local.demo.inspection import inspect
from deploy.local.demo.progress import Progress
from deploy.local.demo.report import Report, as_text, judge
from deploy.local.demo.scenario import crowd
from deploy.local.demo.tally import Tally
from deploy.local.packages import PackageError
from deploy.local.seeding import SeedError
from deploy.local.site import EventLogKind
from deploy.local.stack import StackError, choose_events, remove_dead_sessions, session_name

REPORT = Path("report.json")
# Held seats of people who abandon come back after this, so that the demo sees them sold to somebody else.
HOLD_SECONDS = 10
SETTINGS = {"BOXOFFICE_BOOKING_HOLD_SECONDS": str(HOLD_SECONDS), "BOXOFFICE_TRACE_RATIO": "0"}
CROWD_SEED = 20260101
MAX_BUYERS = 20_000
MAX_SEATS = 100_000


class UsageError(Exception):
    """A variable of the command line has no meaning."""


def _number(name: str, default: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"{name}={text}: a whole number from 1 to {most:,} is needed")
    return int(text)


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[what] = round(time.monotonic() - started, 1)


def _policy(buyers: int) -> dict[str, object]:
    """Lets everyone in within about ten seconds, yet never more at once than half of the crowd."""
    return {
        "mode": "OPEN",
        "rate_per_second": max(10.0, buyers / 10),
        "inside_cap": max(20, buyers // 2),
        "claim_window_seconds": 30,
        "admission_seconds": 120,
    }


async def _run(stack: LocalStack, report: Report, tally: Tally, progress: Progress) -> None:
    login = await asyncio.to_thread(seeding.create_operator, stack.stack)
    seed = ["seed", "--seats", str(report.seats), "--name", "Boxoffice Demo Night", "--opens-in", "0"]
    event_id = int(await asyncio.to_thread(seeding.run_command, stack.stack, "inventory", seed))
    base_url = stack.url("edge")
    people = crowd(report.buyers, CROWD_SEED)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        operator = Client(session, base_url, Tally())
        answer, _ = await operator.call(
            "POST", "/api/auth/login", body={"email": login.email, "password": login.password}
        )
        operator.token = answer["tokens"]["access_token"]
        await sale.open_line(operator, event_id, _policy(report.buyers))
        progress.phase = "signing up"
        with _timed(report.seconds, "sign-up"):
            buyers = await sale.sign_everyone_up(people, session, base_url, event_id, tally)
        with _timed(report.seconds, "sale"):
            await sale.hold_sale(buyers, tally, progress, limit=60 + report.buyers / 20)
        progress.phase = "settling"
        with _timed(report.seconds, "settling"):
            states = await sale.final_states(buyers, tally, limit=HOLD_SECONDS + 20)
            ending = await inspect(stack, event_id, buyers, states)
    judge(report, tally, ending)


async def _demo(report: Report) -> None:
    tally = Tally()
    progress = Progress(tally, report.seats)
    events: EventLogKind = "redis" if report.events == "redis" else "kafka"
    # The logs of a run that failed stay until the next run.
    remove_dead_sessions("demo")
    stack = LocalStack(session_name("demo"), events=events, settings=SETTINGS, keep=True)
    async with progress.shown(), AsyncExitStack() as exits:
        with _timed(report.seconds, "start"):
            await exits.enter_async_context(stack)
        await _run(stack, report, tally, progress)
        progress.phase = "stopping"
        with _timed(report.seconds, "stop"):
            await exits.aclose()
    if report.passed:
        stack.stack.remove()
    else:
        report.logs = str(stack.stack.site.folder / "log")


def main() -> None:
    """Runs the sale, prints and writes the report, and exits with its verdict."""
    # Whatever happens now, an old verdict is not this run's.
    REPORT.unlink(missing_ok=True)
    try:
        buyers, seats = _number("BUYERS", 1000, MAX_BUYERS), _number("SEATS", 400, MAX_SEATS)
        report = Report(buyers, seats, choose_events(os.environ.get("EVENTS")), seconds={})
        asyncio.run(_demo(report))
    except (UsageError, PackageError, StackError, SeedError) as error:
        sys.exit(f"boxoffice: {error}")
    except KeyboardInterrupt:
        sys.exit("boxoffice: interrupted; everything that was started has ended")
    REPORT.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    print(as_text(report))
    print(f"  written to {REPORT}")
    sys.exit(not report.passed)


if __name__ == "__main__":
    main()
