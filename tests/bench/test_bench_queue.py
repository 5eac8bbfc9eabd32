"""The benchmark of the waiting room, small: that it still measures something, not how fast anything is."""

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.queue.digests import Told, freshness, lateness
from bench.queue.watchers import Seen

ROOT = Path(__file__).parents[2]
DIGESTS = [Told(100.0, 100.1, 50, 1), Told(101.0, 101.1, 47, 1), Told(102.0, 102.1, 48, 1)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    done = subprocess.run(
        [sys.executable, "-m", "bench.queue", "--events", "redis", "--json", str(figures), "--svg", str(picture)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "generated"), "PEOPLE": "20000", "WATCHERS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert [each["where"] for each in found["joins"]] == ["line", "line", "draw", "draw", "draw", "line"]
    assert all(each["per_second"] > 0 and each["ceiling_per_second"] > 0 for each in found["joins"])
    assert found["opening"]["entrants"] >= 20_000
    assert found["rest"]["joins, seen tokens"] > 0
    assert len(found["digests"]) == 3
    assert all("digest" in each["scripts"] for each in found["digests"])
    assert [each["watchers"] for each in found["watching"]] == [0, 500]
    assert all(each["lost"] == 0 for each in found["watching"])
    assert all(each["lateness"]["number"] > 0 and each["freshness"]["number"] > 0 for each in found["watching"][1:])
    assert "watchers" in done.stdout
    assert ET.parse(picture).getroot().tag.endswith("svg")


def seen(*messages: tuple[float, int]) -> Seen:
    times, totals = zip(*messages, strict=True)
    return Seen(array("d", times), array("q", totals))


def test_a_message_is_late_by_the_digest_that_it_was_made_of() -> None:
    found = lateness(DIGESTS, seen((101.25, 47), (101.5, 50), (101.5, 12)))
    assert found == pytest.approx([0.25, 1.5])


def test_news_are_as_old_as_the_join_that_they_tell_of() -> None:
    assert freshness(DIGESTS, seen((102.5, 48), (101.5, 47)), [101.75]) == pytest.approx([0.75])
