"""Several admission loops for one line: one ticks, a late one is refused, and without any lease the bounds hold too."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.queue.admission.lease import Leases, written_fences
from services.queue.admission.loop import AdmissionLoop
from services.queue.line.domain import PlaceState, Sale
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import Tick
from tests.queue.lease_nodes import NAMES, LeaseNodes
from tests.queue.lines import EVENT, OPEN_SALE, POLICY, called, join_all, state, store_of, without_guard
from tests.support import eventually


class _OpenSale:
    async def sale(self, _event_id: int) -> Sale:
        return OPEN_SALE


class _Unheard:
    def nudge(self, _event_id: int) -> None:
        pass


class _Process:
    """One process of queue, as far as it ticks. While it stands still, what it was about to do comes late."""

    def __init__(self, store: LineStore, leases: Leases | None = None) -> None:
        self.store, self.upkeep = store, self
        self.ticks: list[Tick | Exception] = []
        self.late = asyncio.Event()
        self.running = asyncio.Event()
        self.running.set()
        nobody: Any = None
        self.loop = AdmissionLoop(self, _OpenSale(), _Unheard(), nobody, leases=leases)  # type: ignore[arg-type] # the methods that are used

    async def active_events(self) -> list[int]:
        return [EVENT]

    async def retire(self, event_id: int, *_: object) -> bool:
        return False

    async def admit_many(self, sales: Mapping[int, Sale], **rules: Any) -> dict[int, Tick | Exception]:
        if sales and not self.running.is_set():
            self.late.set()
            await self.running.wait()
        outcomes = await self.store.admit_many(sales, **rules)
        self.ticks.extend(outcomes.values())
        return outcomes

    async def ticked(self, more: int = 1) -> bool:
        """Ticks until the line was ticked so many times more."""
        wanted = len(self.ticks) + more

        async def enough() -> bool:
            await self.loop.tick()
            return len(self.ticks) >= wanted

        return await eventually(enough)


@asynccontextmanager
async def _processes(redis: Redis, nodes: LeaseNodes, number: int) -> AsyncIterator[list[_Process]]:
    async with AsyncExitStack() as stack:
        leases = [await stack.enter_async_context(nodes.process(floors=written_fences(redis))) for _ in range(number)]
        yield [_Process(store_of(redis), each) for each in leases]


def _fenced() -> float:
    return REGISTRY.get_sample_value("boxoffice_queue_fenced_ticks_total") or 0.0


async def test_one_of_several_processes_ticks_and_the_next_takes_over(redis: Redis, nodes: LeaseNodes) -> None:
    async with _processes(redis, nodes, 3) as (one, other, third):
        await join_all(one.store, (1,))
        await one.ticked()
        for _ in range(5):
            await asyncio.gather(*(each.loop.tick() for each in (one, other, third)))
        assert len(one.ticks) == 6
        assert other.ticks == third.ticks == []

        await join_all(one.store, (2,))  # and the one is killed
        await other.ticked()
        assert await state(other.store, 2) is PlaceState.READY
        assert one.loop.calling == {EVENT}


async def _late_tick(redis: Redis, nodes: LeaseNodes) -> PlaceState | None:
    """A holder stands still in the middle of a tick, another takes over, someone joins; then the tick goes on."""
    async with _processes(redis, nodes, 2) as (one, other):
        await join_all(one.store, (1,))
        await one.ticked()
        one.running.clear()
        late = asyncio.create_task(one.loop.tick())
        await one.late.wait()
        await other.ticked()
        await join_all(other.store, (2,))

        one.running.set()
        await late
        return await state(other.store, 2)


async def test_the_late_tick_of_an_old_holder_is_refused(redis: Redis, nodes: LeaseNodes) -> None:
    before = _fenced()

    assert await _late_tick(redis, nodes) is PlaceState.WAITING
    assert _fenced() == before + 1


async def test_control_without_the_fence_a_late_tick_acts(
    redis: Redis, nodes: LeaseNodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if fence ~= '' and tonumber(fence) < tonumber(highest or 0) then return {0, 'FENCED'} end"
    without_guard(monkeypatch, tmp_path, "admit", guard)

    assert await _late_tick(redis, nodes) is PlaceState.READY


async def test_who_was_refused_takes_part_again(redis: Redis, nodes: LeaseNodes) -> None:
    async with _processes(redis, nodes, 1) as (one,):
        await join_all(one.store, (1,))
        await one.ticked()
        fence: Any = redis.hget(line_key(EVENT, "line"), "fence")
        raised: Any = redis.hset(line_key(EVENT, "line"), "fence", int(await fence) + 100)
        await raised
        before = _fenced()

        await one.ticked()
        assert _fenced() == before + 1
        await one.ticked(2)
        assert [isinstance(each, Tick) for each in one.ticks[-2:]] == [True, True]


async def test_without_a_majority_every_process_ticks(redis: Redis, nodes: LeaseNodes) -> None:
    async with _processes(redis, nodes, 2) as (one, other):
        nodes.kill(*NAMES[:2])
        await join_all(one.store, (1, 2))
        await asyncio.gather(one.ticked(3), other.ticked(3))
        assert await called(one.store) == [1, 2]


async def test_two_loops_without_any_lease_call_in_order_once_and_never_beyond_the_cap(
    redis: Redis, other_redis: Redis
) -> None:
    processes = [_Process(store_of(each, inside_cap=7)) for each in (redis, other_redis)]
    await join_all(processes[0].store, range(1, 41))

    async def run(process: _Process) -> None:
        for _ in range(20):
            await process.loop.tick()
            await _leave_one(process.store, redis)

    await asyncio.gather(*map(run, processes))

    ticks = _ticks(processes)
    assert max(tick.inside for tick in ticks) == 7
    assert sum(tick.jumpers for tick in ticks) == 0
    people = await called(processes[0].store)
    assert len(people) > 7
    assert people == list(range(1, len(people) + 1))


async def _leave_one(store: LineStore, redis: Redis) -> None:
    ready: Any = await redis.zrange(line_key(EVENT, "ready"), 0, 0)
    for user in ready:
        await store.leave(EVENT, int(user))


async def test_two_loops_without_any_lease_keep_the_rate(redis: Redis, other_redis: Redis) -> None:
    processes = [_Process(store_of(each, rate_per_second=20.0)) for each in (redis, other_redis)]
    await join_all(processes[0].store, range(1, 201))
    clock = asyncio.get_running_loop().time
    began = clock()

    async def run(process: _Process) -> None:
        for _ in range(60):
            await process.loop.tick()

    await asyncio.gather(*map(run, processes))

    people = sum(tick.called for tick in _ticks(processes))
    assert 20 <= people <= 20 + 20 * (clock() - began)


def _ticks(processes: Sequence[_Process]) -> list[Tick]:
    outcomes = [each for process in processes for each in process.ticks]
    ticks = [each for each in outcomes if isinstance(each, Tick)]
    assert len(ticks) == len(outcomes)
    return ticks


async def test_the_pace_lowers_the_rate_and_not_the_order(redis: Redis) -> None:
    store = LineStore(redis, replace(POLICY, rate_per_second=20.0))
    await join_all(store_of(redis), range(1, 31))

    outcome = (await store.admit_many({EVENT: OPEN_SALE}, paces={EVENT: 0.25}))[EVENT]

    assert isinstance(outcome, Tick)
    assert outcome.called == 5
    assert await called(store) == [1, 2, 3, 4, 5]
