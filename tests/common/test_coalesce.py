"""Calls that arrive together travel together, in order, each with its own answer."""

import asyncio
import contextvars
import itertools
from collections.abc import Sequence

import pytest

from services.common.caller import Caller, caller_var
from services.common.coalesce import Coalescer
from services.common.errors import Unavailable


class Backend:
    """Answers batches when told to, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.under_way = self.most_under_way = 0
        self.callers: list[Caller | None] = []

    async def __call__(self, items: list[int]) -> Sequence[str | Exception]:
        self.batches.append(items)
        self.callers.append(caller_var.get())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        return [ValueError(f"odd {item}") if item % 2 else f"even {item}" for item in items]


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_arrives_in_one_turn_of_the_loop_is_one_batch_with_an_answer_each() -> None:
    backend = Backend()
    backend.gate.set()
    coalescer = Coalescer(backend)
    answers = await asyncio.gather(*(coalescer.submit(item) for item in range(5)), return_exceptions=True)
    assert backend.batches == [[0, 1, 2, 3, 4]]
    assert [str(answer) for answer in answers] == ["even 0", "odd 1", "even 2", "odd 3", "even 4"]
    assert [isinstance(answer, ValueError) for answer in answers] == [False, True, False, True, False]


async def test_what_arrives_while_batches_are_under_way_goes_next() -> None:
    backend = Backend()
    coalescer = Coalescer(backend, max_items=10, max_in_flight=2)
    tasks = []
    for item in range(0, 60, 2):
        tasks.append(asyncio.create_task(coalescer.submit(item)))
        await _turns()
    assert backend.batches == [[0], [2]]
    backend.gate.set()
    assert await asyncio.gather(*tasks) == [f"even {item}" for item in range(0, 60, 2)]
    assert [len(batch) for batch in backend.batches] == [1, 1, 10, 10, 8]
    assert list(itertools.chain(*backend.batches)) == list(range(0, 60, 2))
    assert backend.most_under_way == 2


async def test_a_failed_batch_fails_its_own_items_only() -> None:
    async def send(items: list[int]) -> Sequence[int]:
        await asyncio.sleep(0)
        if 1 in items:
            raise ConnectionError("gone")
        return items

    coalescer: Coalescer[int, int] = Coalescer(send, max_items=2)
    answers = await asyncio.gather(*(coalescer.submit(item) for item in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError, ConnectionError, int, int]
    assert await coalescer.submit(5) == 5


async def test_a_backend_that_loses_count_is_an_error_for_everyone_not_a_mix_up() -> None:
    async def send(items: list[int]) -> Sequence[int]:
        await asyncio.sleep(0)
        return items[1:]

    coalescer: Coalescer[int, int] = Coalescer(send)
    answers = await asyncio.gather(*(coalescer.submit(item) for item in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2 results for 3 items"] * 3


async def test_who_gave_up_before_departure_is_not_sent_and_after_it_harms_nobody() -> None:
    backend = Backend()
    coalescer = Coalescer(backend, max_in_flight=1)
    sent, neighbour = (asyncio.create_task(coalescer.submit(item)) for item in (0, 2))
    await _turns()
    waiting, last = (asyncio.create_task(coalescer.submit(item)) for item in (4, 6))
    await _turns()
    sent.cancel()
    waiting.cancel()
    await _turns()
    backend.gate.set()
    assert [await neighbour, await last] == ["even 2", "even 6"]
    assert backend.batches == [[0, 2], [6]]


async def test_when_everyone_waiting_gave_up_the_next_still_goes() -> None:
    backend = Backend()
    coalescer = Coalescer(backend, max_in_flight=1)
    first = asyncio.create_task(coalescer.submit(0))
    await _turns()
    waiting = asyncio.create_task(coalescer.submit(2))
    await _turns()
    waiting.cancel()
    await _turns()
    backend.gate.set()
    assert await first == "even 0"
    assert await coalescer.submit(4) == "even 4"
    assert backend.batches == [[0], [4]]


async def test_a_batch_belongs_to_nobody() -> None:
    backend = Backend()
    backend.gate.set()
    coalescer = Coalescer(backend)
    context = contextvars.copy_context()
    context.run(caller_var.set, Caller(7, frozenset(), "s"))
    await asyncio.get_running_loop().create_task(coalescer.submit(2), context=context)
    assert backend.callers == [None]


async def test_too_many_waiting_are_told_to_come_back() -> None:
    backend = Backend()
    coalescer = Coalescer(backend, max_items=1, max_in_flight=1)
    tasks = [asyncio.create_task(coalescer.submit(0)) for _ in range(40)]
    await _turns()
    backend.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert 0 < len(refused) < 40
    assert len(backend.batches) == 40 - len(refused)


async def test_cancelling_a_batch_answers_its_items() -> None:
    backend = Backend()
    coalescer = Coalescer(backend)
    waiting = asyncio.create_task(coalescer.submit(0))
    await _turns()
    for task in coalescer._in_flight:
        task.cancel()
    with pytest.raises(Unavailable):
        await waiting
