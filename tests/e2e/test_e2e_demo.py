"""The demo, small, on both event logs, and proof that its verdict can be a bad one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.demo.report import Ending, Report, judge
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
    for happened in ("replays", "declined", "skips_refused", "left", "pushes"):
        assert report["counts"][happened] > 0, happened
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


CLEAN = {"oversold": 0, "leaked": 0, "paid_without_ticket": 0}


def verdict(tally: Tally | None = None, **changes: Any) -> Report:
    ending: dict[str, Any] = {
        "states": {"CONFIRMED": 2},
        "seats_sold": 2,
        "pushes": 4,
        "pushes_expected": 4,
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
        {"states": {"CONFIRMED": 1, "PENDING": 1}},
        {"seats_sold": 1},
        {"seats_sold": 3},
        {"pushes": 3},
    ],
    ids=str,
)
def test_control_each_violation_fails_the_verdict(changes: dict[str, Any]) -> None:
    assert not verdict(**changes).passed


def test_control_what_a_client_saw_fails_the_verdict() -> None:
    twice = Tally()
    twice.bought("somebody else", [1])
    skipped = Tally()
    skipped.counts["skip_attempts"] = 1
    faulty = Tally()
    faulty.server_fault("GET /api/events → 500 INTERNAL")
    assert not any(verdict(tally).passed for tally in (twice, skipped, faulty))
