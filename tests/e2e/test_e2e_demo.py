"""The demo, small, on both event logs, and proof that its verdict can be a bad one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from deploy.local.demo.buyer import Buyer
from deploy.local.demo.client import Client, Problem
from deploy.local.demo.drawing import Drawing, misplaced, unexplained
from deploy.local.demo.fairness import Forecasts, forecasts, queue_jumpers
from deploy.local.demo.report import Ending, Report, as_text, judge
from deploy.local.demo.scenario import crowd
from deploy.local.demo.tally import Tally
from deploy.local.demo.waiting import CLAIM_WINDOW, Forecast, Seen
from services.common import draw

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
    happened = ("replays", "declined", "abandoned", "skips_refused", "left", "pushes")
    for each in (*happened, "missed_calls", "second_chances", "restored"):
        assert report["counts"][each] > 0, each
    assert report["bookings"]["EXPIRED"] > 0
    assert report["draw"]["verified"]
    assert report["draw"]["entrants"] > 30
    assert report["draw"]["receipts"] > 10
    assert all(lane["called"] > 0 for lane in report["lanes"].values())
    assert report["eta"]["waits"] > 0
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


DRAWING = Drawing(entrants=3, verified=True, told="the draw verifies", receipts=1, unexplained=0, misplaced=0)
OPENED = datetime(2026, 1, 1, 20, 1, tzinfo=UTC)


def verdict(tally: Tally | None = None, **changes: Any) -> Report:
    ending: dict[str, Any] = {
        "states": {"CONFIRMED": 2},
        "seats_sold": 2,
        "pushes": 4,
        "pushes_missing": 0,
        "queue_jumpers": 0,
        "lanes": {},
        "forecasts": Forecasts(0, 0),
        "drawing": DRAWING,
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
        {"drawing": replace(DRAWING, verified=False, told="entrant 7 has another score")},
        {"drawing": replace(DRAWING, unexplained=1)},
        {"drawing": replace(DRAWING, misplaced=1)},
        {"seats_sold": 1},
        {"seats_sold": 3},
        {"pushes_missing": 1},
    ],
    ids=str,
)
def test_control_each_violation_fails_the_verdict(changes: dict[str, Any]) -> None:
    assert not verdict(**changes).passed


def in_line(score: int, called: int | None, lane: int = 0) -> Buyer:
    buyer = a_buyer()
    buyer.waiting.seen = Seen("2026-01-01T20:00:00Z", score=score, lane=lane)
    if called is not None:
        buyer.waiting.seen.called_at = OPENED + timedelta(seconds=called)
    return buyer


def a_buyer(user_id: int = 0, *, entered: bool = False, left: bool = False) -> Buyer:
    persona = crowd(1, seed=1)[0]
    buyer = Buyer(persona, phone=None, tally=Tally(), user_id=user_id)  # type: ignore[arg-type] # nobody speaks here
    buyer.waiting.seen.entered_draw = entered
    buyer.waiting.seen.joined_at = "" if left else "2026-01-01T20:00:00Z"
    return buyer


def test_control_who_was_overtaken_is_found() -> None:
    assert queue_jumpers([in_line(1, 1), in_line(2, 1), in_line(3, 2), in_line(4, None)]) == 0
    assert queue_jumpers([in_line(1, 2), in_line(2, 1), in_line(3, 3)]) == 1
    assert queue_jumpers([in_line(1, None), in_line(2, None), in_line(3, 1)]) == 2


def test_lanes_are_told_apart() -> None:
    assert queue_jumpers([in_line(1, 2), in_line(2, 1, lane=1)]) == 0
    assert queue_jumpers([in_line(1, 2, lane=1), in_line(2, 1, lane=1)]) == 1


def test_control_a_list_that_differs_from_who_entered_is_found() -> None:
    crowd_of_three = [a_buyer(1, entered=True), a_buyer(2, entered=True, left=True), a_buyer(3)]
    assert unexplained([1], crowd_of_three) == unexplained([1, 2], crowd_of_three) == 0
    assert unexplained([2], crowd_of_three) == 1
    assert unexplained([1, 3], crowd_of_three) == 1
    assert unexplained([1, 99], crowd_of_three) == 1


def test_control_a_place_that_the_draw_did_not_give_is_found() -> None:
    key = bytes(32)
    lucky, other = a_buyer(7, entered=True), a_buyer(8, entered=True)
    lucky.waiting.seen.score = draw.score(key, 7)
    assert misplaced(key, [lucky, other]) == 0
    other.waiting.seen.score = lucky.waiting.seen.score
    assert misplaced(key, [lucky, other]) == 1


def test_a_wait_is_judged_by_the_first_range_that_was_told() -> None:
    place = {"state": "WAITING", "sale_state": "OPEN", "position": 7, "score": 5}
    seen = Seen()
    seen.look({**place, "sale_state": "SCHEDULED", "position": 0, "eta_p90_seconds": 99}, OPENED)
    seen.look({**place, "eta_p10_seconds": 2, "eta_p90_seconds": 4}, OPENED)
    seen.look({**place, "eta_p10_seconds": 1, "eta_p90_seconds": 2}, OPENED)
    assert seen.told == Forecast(OPENED, 2, 4)
    called = OPENED + timedelta(seconds=3)
    seen.look(
        {"state": "READY", "sale_state": "OPEN", "claim_expire_time": (called + CLAIM_WINDOW).isoformat()}, called
    )
    assert seen.called_at == called


def test_control_a_range_that_was_wrong_counts_against_us() -> None:
    buyers = [in_line(1, 1), in_line(2, 3), in_line(3, 5), in_line(4, None)]
    for buyer in buyers:
        buyer.waiting.seen.told = Forecast(OPENED, 2, 4)
    assert forecasts(buyers) == Forecasts(waits=3, inside=1)


@pytest.mark.parametrize(
    ("waits", "inside", "told"),
    [(300, 240, "target 80%"), (300, 239, "BELOW the target of 80%"), (299, 2, "too few to judge"), (0, 0, "nobody")],
)
def test_forecasts_are_reported_plainly_and_judged_where_they_are_many(waits: int, inside: int, told: str) -> None:
    report = verdict(forecasts=Forecasts(waits, inside))
    assert report.passed == ("BELOW" not in told)
    assert told in as_text(report)


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
