"""What was put aside comes back by the command that the runbook names, of each service that puts records aside."""

import asyncio
import base64
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.site import draw_secret, hmac_key_ring
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import BOOKING_COMMANDS, BOOKING_EVENTS, QUEUE_EVENTS, SALE_PROGRESS, TOPICS, dead

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "BOXOFFICE_AUTH_TARGET": "127.0.0.1:1",
    "BOXOFFICE_INVENTORY_TARGET": "127.0.0.1:1",
    "BOXOFFICE_MYSQL_URL": "mysql://nobody:nothing@127.0.0.1:1/none",
    "BOXOFFICE_SNS_ENDPOINT_URL": "http://127.0.0.1:1",
}


async def _run(service: str, environment: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}", "replay-dead-letters"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize(
    ("service", "topics"),
    [
        ("inventory", {BOOKING_COMMANDS}),
        ("queue", {BOOKING_EVENTS, SALE_PROGRESS}),
        ("notify", {BOOKING_EVENTS, QUEUE_EVENTS}),
    ],
)
async def test_dead_letters_come_back(service: str, topics: set[str], redis_url: str) -> None:
    keys = {f"BOXOFFICE_{name}_KEYS": hmac_key_ring() for name in ("ADMISSION", "PLACE", "RECEIPT")}
    urls = {"BOXOFFICE_REDIS_URL": redis_url, "BOXOFFICE_EVENTLOG_URL": redis_url}
    keys["BOXOFFICE_DRAW_SECRET"] = draw_secret()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "generated"), **SETTINGS, **keys, **urls}
    letter = base64.b64encode(service.encode())
    async with open_event_log(redis_url) as log, log.writer() as writer:
        await log.create_topics(TOPICS)
        live = [name for name in TOPICS if not name.endswith(".dead")]
        for topic in live:
            await writer.append(dead(topic), "7", letter, {"dead-topic": topic, "traceparent": "t"})

        told = await _run(service, environment), await _run(service, environment)

        async with log.reader("test", live) as reader:
            records = await reader.read(100, timedelta(seconds=1))
    assert told == (f"{len(topics)} records moved\n", "0 records moved\n")
    assert {(each.topic, each.value, str(each.headers)) for each in records} == {
        (topic, letter, "{'traceparent': 't'}") for topic in topics
    }
