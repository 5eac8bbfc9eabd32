"""Nobody is called before someone who joined earlier, nor beyond the cap: the number that must read 0 can move."""

from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.queue.admission.loop import AdmissionLoop
from services.queue.line.domain import Sale
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import out_of_order
from tests.queue.lines import (
    EVENT,
    OPEN_SALE,
    build,
    called,
    end_restoring,
    join,
    join_all,
    pass_time,
    store_of,
    without_guard,
)


class _OpenSale:
    async def sale(self, _event_id: int) -> Sale:
        return OPEN_SALE


class _Nobody:
    def nudge(self, _event_id: int) -> None:
        """Calls stay in the outbox."""


async def _jumpers_of_ticks(redis: Redis, store: LineStore, ticks: int) -> float:
    """How far the gauge moves while the loop ticks."""
    loop = AdmissionLoop(store, _OpenSale(), _Nobody(), lambda *_: None)  # type: ignore[arg-type] # the methods that are used
    await store.upkeep.activate(EVENT)
    before = _gauge()
    for _ in range(ticks):
        await loop.tick()
        await pass_time(redis, 1.0)
    return _gauge() - before


def _gauge() -> float:
    value = REGISTRY.get_sample_value("boxoffice_queue_jumpers")
    assert value is not None
    return value


async def test_runs_of_admission_leave_the_gauge_at_zero(redis: Redis) -> None:
    store = store_of(redis, rate_per_second=3.0)
    await join_all(store, range(1, 21))

    assert await _jumpers_of_ticks(redis, store, 4) == 0


async def test_a_restored_place_that_comes_back_late_is_no_jumper(redis: Redis) -> None:
    store = store_of(redis, rate_per_second=3.0)
    await join_all(store, range(1, 21))
    assert await _jumpers_of_ticks(redis, store, 1) == 0
    await join(store, 99, restore=1)
    await end_restoring(redis)

    assert await _jumpers_of_ticks(redis, store, 3) == 0


@pytest.mark.parametrize("rate", [3.0, 10_000.0], ids=["some wait on", "all are called"])
async def test_control_a_script_that_calls_the_last_first_moves_the_gauge(
    redis: Redis, rate: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "admit", "redis.call('ZPOPMIN'", "redis.call('ZPOPMAX'")
    store = store_of(redis, rate_per_second=rate)
    await join_all(store, range(1, 21))

    assert await _jumpers_of_ticks(redis, store, 1) > 0


async def test_control_a_script_without_the_cap_moves_the_gauge(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "local slots = cap - redis.call('ZCARD', ready) - redis.call('ZCARD', admitted)"
    without_guard(monkeypatch, tmp_path, "admit", guard, "local slots = cap")
    store = store_of(redis, inside_cap=2)
    await join_all(store, range(1, 21))

    assert await _jumpers_of_ticks(redis, store, 3) > 0


async def test_lanes_are_judged_one_by_one(redis: Redis) -> None:
    store = store_of(redis, rate_per_second=4.0)
    await build(redis)
    lanes = '[{"lane":0,"name":"general","weight":1},{"lane":1,"name":"fans","weight":3}]'
    await cast("Any", redis.hset(line_key(EVENT, "policy"), "lanes", lanes))
    await join_all(store, range(1, 11))
    for user in range(11, 21):  # later, and called earlier
        await join(store, user, lane=1)

    assert await _jumpers_of_ticks(redis, store, 3) == 0
    assert max(await called(store)) > 10


async def test_a_lowered_cap_is_no_fault_of_those_who_are_inside(redis: Redis) -> None:
    store = store_of(redis, inside_cap=5)
    await join_all(store, range(1, 11))
    assert await _jumpers_of_ticks(redis, store, 1) == 0

    assert await _jumpers_of_ticks(redis, store_of(redis, inside_cap=2), 2) == 0


@pytest.mark.parametrize(
    ("called", "front", "jumpers"),
    [([], None, 0), ([1, 2, 3], None, 0), ([1, 2, 3], 4, 0), ([1, 5, 6], 4, 2), ([3, 1, 2], None, 1), ([9], 1, 1)],
)
def test_whoever_is_called_before_a_smaller_score_is_a_jumper(
    called: list[int], front: int | None, jumpers: Any
) -> None:
    assert out_of_order(called, front) == jumpers
