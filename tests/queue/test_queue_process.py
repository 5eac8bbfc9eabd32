"""queue as it is started by people: a process with an environment."""

import asyncio
import os
import queue
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.common.eventlog import open_event_log
from services.common.eventlog.topics import TOPICS
from tests.queue.neighbours import ADMISSION_KEYS, DRAW_SECRET, PLACE_KEYS, RECEIPT_KEYS, neighbours

ROOT = Path(__file__).parents[2]


def test_the_service_does_not_shadow_the_standard_module() -> None:
    assert queue.SimpleQueue.__module__ == "_queue"
    assert "services" not in str(queue.__file__)


async def _start(environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.queue", cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
    )


def _environment(**settings: str) -> dict[str, str]:
    own = {f"BOXOFFICE_{name.upper()}": value for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BOXOFFICE_")}
    return {**kept, "PYTHONPATH": str(ROOT / "generated"), **own}


async def test_it_starts_from_its_environment_and_stops_on_a_signal(redis_url: str) -> None:
    async with neighbours() as around, open_event_log(redis_url) as log:
        await log.create_topics(TOPICS)
        process = await _start(
            _environment(
                redis_url=redis_url,
                eventlog_url=redis_url,
                inventory_target=around.target,
                auth_target=around.target,
                admission_keys=ADMISSION_KEYS,
                place_keys=PLACE_KEYS,
                draw_secret=DRAW_SECRET,
                receipt_keys=RECEIPT_KEYS,
                queue_claim_window="PT30S",
                queue_mode="HOLD",
                drain_seconds="1",
            )
        )
        assert process.stdout
        async with asyncio.timeout(30):
            while b'"started"' not in (line := await process.stdout.readline()):
                assert line, (await process.communicate())[1].decode()
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0, err.decode()
    assert b'"stopped"' in out
    assert b'"level":"ERROR"' not in out


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_inside_cap": "0"},
        {"place_keys": "k1:c2hvcnQ="},
        {"queue_mode": "STOP"},
        {"draw_secret": "c2hvcnQ="},
        {"receipt_keys": "r1:c2hvcnQ="},
        {"receipt_keys": "c2hvcnQ="},
    ],
)
async def test_it_says_which_variable_is_wrong(wrong: dict[str, str]) -> None:
    right = {
        "redis_url": "redis://127.0.0.1:1/0",
        "eventlog_url": "redis://127.0.0.1:1/0",
        "inventory_target": "127.0.0.1:1",
        "auth_target": "127.0.0.1:1",
        "admission_keys": ADMISSION_KEYS,
        "place_keys": PLACE_KEYS,
        "draw_secret": DRAW_SECRET,
        "receipt_keys": RECEIPT_KEYS,
    }
    process = await _start(_environment(**{**right, **wrong}))
    _, err = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 2
    assert err.decode().startswith(f"BOXOFFICE_{next(iter(wrong)).upper()}: ")
    assert len(err.splitlines()) == 1
