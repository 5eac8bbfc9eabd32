"""Writing a list of a draw: the others go on between its parts."""

import asyncio
from typing import Any

from services.queue.draw.entrants import PART, Entrants
from services.queue.draw.log import DrawLog


class Instant:
    """A log that acknowledges at once: no turn of the loop is due to it."""

    def __init__(self) -> None:
        self.records = 0

    async def append_many(self, _topic: str, entries: list[Any]) -> None:
        self.records += len(entries)


async def test_the_loop_turns_between_the_parts_of_a_list() -> None:
    entrants, writer, turns = Entrants(), Instant(), 0
    entrants.extend(range(25 * PART), bytes(25 * PART))

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    await DrawLog(None, writer).append_list(7, "attempt", entrants)  # type: ignore[arg-type] # what is used of them
    turning.cancel()
    assert writer.records == 25
    assert turns >= 25
