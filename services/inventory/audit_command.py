"""`python -m services.inventory audit`: prints what contradicts the promises, and ends with 1 if anything does."""

import argparse
import asyncio
import dataclasses
import sys
from datetime import timedelta
from typing import Final

import orjson

from services.common.mysql import open_database
from services.common.redis import open_redis
from services.inventory.audit import GRACE, MONEY_GRACE, Audit, AuditReport, lines
from services.inventory.settings import AuditSettings

_LONGEST_GRACE: Final = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument("--event", type=int, help="only this event; otherwise all that are published")
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=GRACE,
        metavar="SECONDS",
        help="overlook holds that are over, and promises that are undecided, for this long; "
        f"{GRACE.seconds} by default, 0 when the sale is over and nothing is on its way",
    )
    parser.add_argument(
        "--money-grace",
        type=_seconds,
        default=MONEY_GRACE,
        metavar="SECONDS",
        help=f"the same for payments; {MONEY_GRACE.seconds} by default",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main_audit(settings: AuditSettings, arguments: argparse.Namespace) -> int:
    """Runs the audit once; returns the exit status: 0 when nothing was found, else 1."""
    report = asyncio.run(_audit(settings, arguments))
    text = _document(report) if arguments.json else "\n".join(lines(report))
    sys.stdout.write(text + "\n")
    return 0 if report.clean else 1


async def _audit(settings: AuditSettings, arguments: argparse.Namespace) -> AuditReport:
    async with open_database(settings.mysql_url) as db, open_redis(settings.redis_url) as redis:
        audit = Audit(db, redis, grace=arguments.grace, money_grace=arguments.money_grace)
        return await audit.run(arguments.event)


def _seconds(text: str) -> timedelta:
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST_GRACE:
        raise argparse.ArgumentTypeError(f"0 to {_LONGEST_GRACE} seconds")
    return timedelta(seconds=seconds)


def _document(report: AuditReport) -> str:
    findings = [dataclasses.asdict(finding) for finding in report.findings]
    content = {"clean": report.clean, "events": report.event_ids, **report.counts(), "findings": findings}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
