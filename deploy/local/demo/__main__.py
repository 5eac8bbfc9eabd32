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
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from deploy.local import seeding
from deploy.local.asynchronous import LocalStack
from deploy.local.demo import sale
from deploy.local.demo.buyer import Buyer
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
# Held seats of people who abandon come back after this, so that the demo sees them sold to somebody else; late enough
# that the sale is not over for those who missed their first call.
HOLD_SECONDS = 15
SETTINGS = {
    "BOXOFFICE_BOOKING_HOLD_SECONDS": str(HOLD_SECONDS),
    # The crowd takes its share of the machine that the shop runs on, so that holding is slow for the crowd's sake.
    "BOXOFFICE_QUEUE_SLOW_HOLD_P99": "PT2S",
    "BOXOFFICE_TRACE_RATIO": "0",
}
CROWD_SEED = 20260101
# What making the passes may take before the first ones join.
PREPARING_SECONDS = 2.0
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


async def _run(stack: LocalStack, report: Report, tally: Tally, progress: Progress) -> None:
    login = await asyncio.to_thread(seeding.create_operator, stack.stack)
    base_url = stack.url("edge")
    people = crowd(report.buyers, CROWD_SEED)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        operator = Client(session, base_url, Tally())
        body = {"email": login.email, "password": login.password}
        answer, _ = await operator.call("POST", "/api/auth/login", body=body)
        operator.token = answer["tokens"]["access_token"]
        progress.enter("signing up")
        with _timed(report.seconds, "sign-up"):
            buyers = await sale.sign_everyone_up(people, session, base_url, tally)
        with _timed(report.seconds, "sale"):
            event_id, opened = await _hold_sale(stack, operator, buyers, tally, progress)
        progress.enter("settling")
        with _timed(report.seconds, "settling"):
            states = await sale.final_states(buyers, tally, limit=HOLD_SECONDS + 20)
            ending = await inspect(stack, event_id, opened, buyers, states)
    judge(report, tally, ending)


async def _hold_sale(
    stack: LocalStack, operator: Client, buyers: list[Buyer], tally: Tally, progress: Progress
) -> tuple[int, datetime]:
    """Puts an event on sale and sells it; answers its id, and when it opened."""
    # Made only now, since nobody knows beforehand how long signing up takes.
    opens_in = PREPARING_SECONDS + sale.arrival_seconds(len(buyers)) + sale.CALM_SECONDS
    seats = str(progress.seats)
    seed = ["seed", "--seats", seats, "--name", "Boxoffice Demo Night", "--opens-in", str(opens_in)]
    event_id = int(await asyncio.to_thread(seeding.run_command, stack.stack, "inventory", seed))
    told, _ = await operator.call("GET", f"/api/events/{event_id}")
    opened = datetime.fromisoformat(told["event"]["sale_open_time"])
    await sale.prepare_line(operator, event_id, buyers)
    left = (opened - datetime.now(tz=UTC)).total_seconds()
    await sale.hold_sale(buyers, tally, progress, max(0.0, left), limit=60 + len(buyers) / 20)
    return event_id, opened


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
        progress.enter("stopping")
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
