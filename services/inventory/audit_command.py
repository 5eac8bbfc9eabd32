"""`python -m services.inventory audit`: prints what contradicts the promises, and ends with 1 if anything does."""

import argparse
import asyncio
import dataclasses
import sys

import orjson

from services.common.mysql import open_database
from services.common.redis import open_redis
from services.inventory.audit import Audit, AuditReport, lines
from services.inventory.settings import AuditSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    parser.add_argument("--event", type=int, help="only this event; otherwise all that are published")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main_audit(settings: AuditSettings, arguments: argparse.Namespace) -> int:
    """Runs the audit once; returns the exit status: 0 when nothing was found, else 1."""
    report = asyncio.run(_audit(settings, arguments.event))
    text = _document(report) if arguments.json else "\n".join(lines(report))
    sys.stdout.write(text + "\n")
    return 0 if report.clean else 1


async def _audit(settings: AuditSettings, event_id: int | None) -> AuditReport:
    async with open_database(settings.mysql_url) as db, open_redis(settings.redis_url) as redis:
        return await Audit(db, redis).run(event_id)


def _document(report: AuditReport) -> str:
    findings = [dataclasses.asdict(finding) for finding in report.findings]
    content = {"clean": report.clean, "events": report.event_ids, **report.counts(), "findings": findings}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
