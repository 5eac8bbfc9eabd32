"""The demo, small, on both event logs, and proof that its verdict can be a bad one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from deploy.local.demo.buyer import Buyer
from deploy.local.demo.client import Client, Problem
from deploy.local.demo.inspection import queue_jumpers
from deploy.local.demo.report import Ending, Report, judge
from deploy.local.demo.scenario import crowd
from deploy.local.demo.tally import Tally

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("events", ["kafka", "redis"])
def test_a_small_sale_holds_every_invariant_and_sells_out(events: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local.demo"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'generated'}",
            "BUYERS": "120",
            "SEATS": "60",
            "EVENTS": events,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert report["events"] == events
    assert report["seats_sold"] == report["seats_sellable"] == 60
    assert set(report["invariants"].values()) == {0}
    for happened in ("replays", "declined", "abandoned", "skips_refused", "left", "pushes"):
        assert report["counts"][happened] > 0, happened
    assert report["bookings"]["EXPIRED"] > 0
    assert "PASSED" in done.stdout


@pytest.mark.parametrize(("name", "value"), [("BUYERS", "many"), ("SEATS", "0"), ("EVENTS", "rabbit")])
def test_a_wrong_variable_is_one_readable_line(name: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local.demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'generated'}", name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert value in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


CLEAN = {
    "clean": True,
    "oversold": 0,
    "leaked": 0,
    "paid_without_ticket": 0,
    "undecided": 0,
    "mismatch": 0,
    "findings": [],
}


def verdict(tally: Tally | None = None, **changes: Any) -> Report:
    ending: dict[str, Any] = {
        "states": {"CONFIRMED": 2},
        "seats_sold": 2,
        "pushes": 4,
        "pushes_missing": 0,
        "queue_jumpers": 0,
        "audit": CLEAN,
        "demand": 5,
    }
    tally = tally or Tally()
    tally.bought("a", [1])
    tally.bought("b", [2])
    return judge(Report(buyers=3, seats=2, events="redis", seconds={}), tally, Ending(**(ending | changes)))


def test_a_clean_sale_passes() -> None:
    assert verdict().violations == []


@pytest.mark.parametrize(
    "changes",
    [
        {"audit": CLEAN | {"oversold": 1}},
        {"audit": CLEAN | {"leaked": 1}},
        {"audit": CLEAN | {"paid_without_ticket": 1}},
        {"audit": CLEAN | {"undecided": 1}},
        {"audit": CLEAN | {"mismatch": 1}},
        {"audit": CLEAN | {"clean": False, "findings": ["something else"]}},
        {"states": {"CONFIRMED": 1, "PENDING": 1}},
        {"states": {"CONFIRMED": 1, "LOST": 1}},
        {"queue_jumpers": 1},
        {"seats_sold": 1},
        {"seats_sold": 3},
        {"pushes_missing": 1},
    ],
    ids=str,
)
def test_control_each_violation_fails_the_verdict(changes: dict[str, Any]) -> None:
    assert not verdict(**changes).passed


def in_line(joined: int, called: int | None) -> Buyer:
    persona = crowd(1, seed=1)[0]
    buyer = Buyer(persona, client=None, event_id=1, tally=Tally())  # type: ignore[arg-type] # nobody speaks here
    buyer.joined_at = f"2026-01-01T20:00:{joined:02}Z"
    buyer.called_by = "" if called is None else f"2026-01-01T20:01:{called:02}Z"
    return buyer


def test_control_who_was_overtaken_is_found() -> None:
    assert queue_jumpers([in_line(1, 1), in_line(2, 1), in_line(3, 2), in_line(4, None)]) == 0
    assert queue_jumpers([in_line(1, 2), in_line(2, 1), in_line(3, 3)]) == 1
    assert queue_jumpers([in_line(1, None), in_line(2, None), in_line(3, 1)]) == 2


async def test_control_a_buyer_whom_the_server_fails_fails_the_verdict(unused_tcp_port: int) -> None:
    async def stream(_request: web.Request) -> web.Response:
        body = 'data: {"place": {"state": "WAITING"}}\n\nevent: problem\ndata: {"status": 500, "code": "INTERNAL"}\n\n'
        return web.Response(text=body, content_type="text/event-stream")

    app = web.Application()
    app.add_routes([web.get("/stream", stream)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    tally = Tally()
    async with aiohttp.ClientSession() as session:
        client = Client(session, f"http://127.0.0.1:{unused_tcp_port}", tally)
        with pytest.raises(Problem, match="INTERNAL"):
            assert [update async for update in client.follow("/stream")]
    await runner.cleanup()
    assert not verdict(tally).passed


def test_control_what_a_client_saw_fails_the_verdict() -> None:
    twice = Tally()
    twice.bought("somebody else", [1])
    skipped = Tally()
    skipped.counts["skip_attempts"] = 1
    faulty = Tally()
    faulty.server_fault("GET /api/events → 500 INTERNAL")
    assert not any(verdict(tally).passed for tally in (twice, skipped, faulty))
