"""Forecasts are judged by what came: early, inside, late; and judging stays small."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.common.errors import Unavailable
from services.common.place_in_digest import LaneScores
from services.queue.admission.publisher import FactPublisher
from services.queue.digest import accuracy
from services.queue.digest.accuracy import AccuracyLog
from services.queue.digest.reader import DigestReader
from services.queue.digest.report import Digest, digest_of
from services.queue.digest.snapshot import LaneSnapshot
from services.queue.line.domain import Mode
from services.queue.line.transitions import Fact, FactKind
from tests.queue.digests import LINE
from tests.queue.lines import EVENT, OPEN_SALE, POLICY, join, store_of, tick

_START: Final = 1_800_000_000
_RATE: Final = 10.0


def _person(number: int) -> int:
    """The score of the number-th person: a crowd came in the first second."""
    return _START * 1_000_000 + number


def _drawn(number: int) -> int:
    return 1_000 + number


class _Sale:
    """A line of 3,000 from which `pace` people a second are called while 10 a second are foretold."""

    def __init__(self, score: Any = _person, mode: Mode = Mode.OPEN) -> None:
        self.pace, self.score, self.mode = _RATE, score, mode
        self.called, self.now, self.readings = 0, 0, 0
        self.is_broken = False
        self.log = AccuracyLog(DigestReader(self._read, lambda: float(self.now)))

    async def _read(self, event_id: int) -> Digest:
        self.readings += 1
        if self.is_broken and event_id == EVENT:
            raise Unavailable("the event cannot be looked up")
        scores = [self.score(number) for number in range(self.called, 3_000)]
        lane = LaneSnapshot(LaneScores(len(scores), scores[:1_000], scores[1_000:], range(1_001, len(scores) + 1)), 0)
        line = replace(LINE, now=self._moment(), lanes={0: lane}, observed_rate=_RATE)
        return digest_of(line, replace(POLICY, rate_per_second=_RATE, mode=self.mode), OPEN_SALE)

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(_START + self.now, UTC)

    def call(self, *, calls: int = 1) -> None:
        """Calls those of one second."""
        until = min(int((self.now + 1) * self.pace), 3_000)
        self.log.heard(EVENT, [self._fact(number, calls) for number in range(self.called, until)])
        self.called = until

    def _fact(self, number: int, calls: int) -> Fact:
        score = self.score(number)
        return Fact(f"{number}", FactKind.CALLED, number, self._moment(), 0, score, calls=calls)

    async def run(self, seconds: Iterable[int]) -> None:
        for self.now in seconds:
            if self.now % 10 == 0:
                await self.log.step()
            self.call()


def _counts() -> Counter[str]:
    name = "boxoffice_queue_eta_waits_total"
    return Counter(
        {each: int(REGISTRY.get_sample_value(name, {"outcome": each}) or 0) for each in ("early", "inside", "late")}
    )


@pytest.mark.parametrize("score", [_person, _drawn])
async def test_forecasts_that_come_true_are_inside(score: Any) -> None:
    before = _counts()
    await _Sale(score).run(range(200))

    judged = _counts() - before
    assert judged.total() > 300
    assert judged["inside"] / judged.total() > 0.95


@pytest.mark.parametrize(("pace", "outcome"), [(25.0, "early"), (4.0, "late")])
async def test_a_pace_that_nobody_foretold_shows(pace: float, outcome: str) -> None:
    before = _counts()
    sale = _Sale()
    sale.pace = pace
    await sale.run(range(110))

    judged = _counts() - before
    assert judged[outcome] / judged.total() > 0.8


async def test_short_waits_and_second_calls_are_not_judged() -> None:
    before = _counts()
    sale = _Sale()
    await sale.run(range(11))  # The first digest is taken at 10 s.
    sale.now = 14
    sale.call()
    assert _counts() == before
    sale.now = 60
    sale.call(calls=2)
    assert _counts() == before
    sale.now = 90
    sale.call()
    assert (_counts() - before).total() > 0


async def test_what_is_told_during_a_hold_is_not_judged() -> None:
    before = _counts()
    await _Sale(mode=Mode.HOLD).run(range(60))

    assert _counts() == before


async def test_digests_are_read_only_while_somebody_is_called() -> None:
    sale = _Sale()
    await sale.log.step()
    assert sale.readings == 0
    await sale.run(range(11))
    assert sale.readings == 1
    sale.now += int(accuracy._QUIET_SECONDS) + 10
    await sale.log.step()
    readings = sale.readings
    sale.now += 10
    await sale.log.step()
    assert sale.readings == readings


async def test_an_event_that_cannot_be_read_does_not_stop_the_others() -> None:
    sale = _Sale()
    sale.call()
    sale.log.heard(EVENT + 1, [sale._fact(0, calls=1)])
    sale.is_broken = True
    await sale.log.step()

    assert len(sale.log._events[EVENT].kept) == 0
    assert len(sale.log._events[EVENT + 1].kept) == 1


async def test_no_more_than_an_hour_is_kept_and_little_of_it() -> None:
    sale = _Sale()
    sale.pace = 0.5
    await sale.run(range(0, 5_000, 10))

    kept = sale.log._events[EVENT].kept
    assert len(kept) == timedelta(hours=1) / timedelta(seconds=10)
    assert max(len(scores.samples) for each in kept for scores, _ in each.lanes.values()) < 200


class _Log:
    """A writer that acknowledges."""

    async def append(self, *_record: object) -> None:
        """Takes it."""


async def test_what_is_published_is_heard(redis: Redis) -> None:
    store = store_of(redis)
    heard: list[tuple[int, Sequence[Fact]]] = []
    publisher = FactPublisher(store, _Log(), lambda *facts: heard.append(facts))  # type: ignore[arg-type] # acknowledges
    joined = await join(store, 1)
    await tick(store)
    await publisher.publish(EVENT)

    ((event_id, (fact,)),) = heard
    assert (event_id, fact.kind, fact.lane, fact.score, fact.calls) == (EVENT, FactKind.CALLED, 0, joined.score, 1)
