"""What tests of digests share: lines in short, made by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.common.place_in_digest import LaneScores
from services.queue.digest.report import Digest, digest_of
from services.queue.digest.snapshot import LaneSnapshot, LineSnapshot
from tests.queue.lines import OPEN_SALE, POLICY

LINE = LineSnapshot(
    now=datetime(2026, 1, 1, tzinfo=UTC),
    incarnation=1,
    restoring=False,
    lanes={0: LaneSnapshot(LaneScores(3, [10, 20, 30], [], []), watermark=5)},
    missed=0,
    entrants=0,
    entered=0,
    draw_key=b"",
    draw_held=True,
    sold_out=False,
    seats_left=None,
    seats_total=None,
    called=0,
    inside=0,
    observed_rate=None,
    stays=[],
    changed=[],
)


def digest(**changes: Any) -> Digest:
    """A digest of a short line, with changes to what Redis knows."""
    return digest_of(replace(LINE, **changes), POLICY, OPEN_SALE)
