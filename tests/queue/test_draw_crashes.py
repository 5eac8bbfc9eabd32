"""A holder that is killed at any step leaves a draw that the next one finishes, with the same places."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

from tests.queue.draw_child import STEPS
from tests.queue.draws import SALE, enter, expected, house, people, standing

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("draw_child.py")
PEOPLE = people(range(1_700))
# Of "enter" the process dies after the first part of the people, and after the third.
CRASHES = [*((step, 1) for step in STEPS), ("enter", 3)]


async def _killed(redis_url: str, event_id: int, step: str, count: int) -> int:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"}
    arguments = (str(CHILD), redis_url, str(event_id), step, str(count))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment, stdout=DEVNULL)
    return await process.wait()


async def test_a_draw_survives_the_death_of_its_holder_at_every_step(redis_url: str) -> None:
    crashes = dict(enumerate(CRASHES, 100))
    async with house(redis_url) as here:
        for event_id in crashes:
            await enter(here.redis, PEOPLE, event_id)
        ends = []
        for event_id, (step, count) in crashes.items():
            ends.append(await _killed(redis_url, event_id, step, count))
        assert ends == [-signal.SIGKILL] * len(crashes)
        for event_id, crash in crashes.items():
            halfway = await standing(here.redis, event_id)
            assert await here.holder.run(event_id, SALE), crash
            after = await standing(here.redis, event_id)
            assert after == expected(PEOPLE, event_id), crash
            # Nobody who had a place before the crash has another one now.
            assert all(set(halfway[lane].items()) <= set(after[lane].items()) for lane in halfway), crash
