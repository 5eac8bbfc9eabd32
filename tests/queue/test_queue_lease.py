"""The lease of an event: one holder at a time while a majority of the nodes answers, and fences that only grow."""

import asyncio
import logging
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.queue.admission import lease as lease_module
from services.queue.admission.lease import Leases
from tests.queue.lease_nodes import EVENT, NAMES, TTL, LeaseNodes, fence_of, written
from tests.support import eventually, without_guard

A, B, C = NAMES
TAKEOVERS = 50


async def held(leases: Leases) -> int:
    """The fence, as soon as the process has the lease."""

    async def fence() -> int:
        return await fence_of(leases) or 0

    return await eventually(fence)


async def kept(leases: Leases, span: timedelta) -> set[int | None]:
    """What is held over a while, by a process that ticks."""
    seen: set[int | None] = set()
    end = time.monotonic() + span.total_seconds()
    while time.monotonic() < end:
        seen.add(await fence_of(leases))
        await asyncio.sleep(0.05)
    return seen


async def kept_by(processes: list[Leases], span: timedelta) -> list[set[int | None]]:
    return await asyncio.gather(*(kept(each, span) for each in processes))


def gauge(standing: str) -> float:
    return REGISTRY.get_sample_value("boxoffice_queue_leases", {"standing": standing}) or 0.0


async def test_one_process_holds_and_keeps_the_lease_until_it_gives_it_back(nodes: LeaseNodes) -> None:
    async with nodes.process() as one, nodes.process() as other:
        fence = await held(one)
        assert gauge("held") == 1
        assert await fence_of(other) == 0
        assert gauge("other") == 1

        assert await kept_by([one, other], 3 * TTL) == [{fence}, {0}]

        await one.release()
        assert await fence_of(one) == 0
        assert await held(other) > fence


async def test_a_holder_that_dies_is_replaced_when_its_time_is_over(nodes: LeaseNodes) -> None:
    async with nodes.process() as one, nodes.process() as other:
        fence = await held(one)
        died = time.monotonic()

        assert await held(other) > fence
        assert TTL * 0.8 < timedelta(seconds=time.monotonic() - died) < TTL * 3


async def test_events_that_are_no_longer_ticked_are_given_back(nodes: LeaseNodes) -> None:
    async with nodes.process() as one, nodes.process() as other:

        async def holds_both() -> bool:
            return len(await one.hold([EVENT, 8])) == 2

        await eventually(holds_both)
        assert set(await one.hold([8])) == {8}
        assert await held(other)
        assert await fence_of(other, 8) == 0


async def test_with_a_dead_node_leases_are_taken_kept_and_handed_over(nodes: LeaseNodes) -> None:
    async with nodes.process() as one, nodes.process() as other:
        nodes.kill(B)
        fence = await held(one)
        assert await kept_by([one, other], 2 * TTL) == [{fence}, {0}]

        nodes.start(B)  # with nothing in its memory: what is held elsewhere is given back to it
        await kept(one, TTL)
        nodes.kill(C)
        assert await kept_by([one, other], 2 * TTL) == [{fence}, {0}]

        await one.release()
        assert await held(other) > fence


async def test_a_slow_node_holds_nobody_up(nodes: LeaseNodes) -> None:
    async with nodes.process() as one, nodes.process() as other:
        fence = await held(one)
        nodes.pause(B)
        longest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert await fence_of(one) == fence
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.05)
        assert longest < TTL.total_seconds() / 2

        await one.release()
        taken = await held(other)
        assert taken > fence
        nodes.resume(B)
        assert await kept(other, 2 * TTL) == {taken}


async def test_without_a_majority_everyone_ticks_without_a_fence_and_says_so_once(
    nodes: LeaseNodes, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes.process() as one, nodes.process() as other:
        fence = await held(one)
        nodes.kill(A, B)

        async def unfenced(leases: Leases) -> bool:
            return await fence_of(leases) is None

        with caplog.at_level(logging.INFO):
            await asyncio.gather(*(eventually(partial(unfenced, each)) for each in (one, other)))
            assert await kept_by([one, other], TTL) == [{None}, {None}]
        assert gauge("unfenced") == 1
        said = [record.message for record in caplog.records if "no majority" in record.message]
        assert len(said) == 2  # once by each of the two

        nodes.start(A, B)
        holders = await eventually(lambda: _holders([one, other]))
        assert min(holders.values()) > fence


async def _holders(processes: list[Leases]) -> dict[Leases, int]:
    """Those who hold with a fence; empty while anybody ticks without one."""
    fences = {each: await fence_of(each) for each in processes}
    return {} if None in fences.values() else {each: fence for each, fence in fences.items() if fence}


async def test_a_node_that_lost_its_memory_may_let_two_hold_but_the_later_has_the_larger_fence(
    nodes: LeaseNodes,
) -> None:
    async with nodes.process() as one, nodes.process() as other:
        nodes.pause(C)
        fence = await held(one)  # by A and B
        nodes.resume(C)
        await nodes.empty(A)
        await nodes.empty(C)

        later = await held(other)  # by A and C, none of which knows of the first

        assert later > fence
        assert await fence_of(one) in {0, fence}
        await kept(one, TTL)
        assert await fence_of(one) == 0


async def test_a_line_that_has_seen_more_than_the_nodes_raises_the_fence(nodes: LeaseNodes) -> None:
    async with nodes.process(written({EVENT: 41})) as one:
        assert await held(one) == 42


async def test_a_refused_fence_is_dropped_and_a_larger_one_is_taken(
    nodes: LeaseNodes, caplog: pytest.LogCaptureFixture
) -> None:
    fences = {EVENT: 0}
    before = REGISTRY.get_sample_value("boxoffice_queue_fenced_ticks_total") or 0.0
    async with nodes.process(written(fences)) as one:
        fence = await held(one)
        fences[EVENT] = fence + 7
        one.drop(EVENT)
        assert await held(one) == fence + 8
    assert REGISTRY.get_sample_value("boxoffice_queue_fenced_ticks_total") == before + 1
    assert [record.message for record in caplog.records if "refused" in record.message]


async def _fences_of_takeovers(nodes: LeaseNodes, ttl: timedelta = timedelta(milliseconds=150)) -> list[int]:
    """Three processes contend; whoever holds dies, or gives back, and comes again as a new process."""
    taken: list[int] = []

    async def contend(number: int) -> None:
        while len(taken) < TAKEOVERS:
            async with nodes.process(ttl=ttl) as leases:
                taken.append(await held(leases))
                if (len(taken) + number) % 4:
                    await leases.release()

    async def trouble() -> None:
        for number in range(1, 5):
            await eventually(lambda: len(taken) >= 10 * number, timedelta(seconds=60))  # noqa: B023 - awaited at once
            await nodes.empty(NAMES[number % 3])

    await asyncio.gather(*map(contend, range(3)), trouble())
    return taken


async def test_fences_strictly_grow_over_many_holders(nodes: LeaseNodes) -> None:
    taken = await _fences_of_takeovers(nodes)

    assert len(taken) >= TAKEOVERS
    assert taken == sorted(set(taken))


async def test_control_without_the_guard_of_the_nodes_fences_come_again(
    nodes: LeaseNodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = " or fence < highest or (fence == highest and not is_holder)"
    without_guard(monkeypatch, tmp_path, lease_module, "_GRANT", guard)

    taken = await _fences_of_takeovers(nodes)

    assert taken != sorted(set(taken))
