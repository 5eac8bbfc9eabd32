"""A process that holds a draw and is killed on the way: `draw_child.py redis_url event_id step count`."""

import asyncio
import os
import signal
import sys
from typing import Any

from tests.queue.draws import SALE, house

# Where each step happens, in the order of a draw.
STEPS = {
    "close": ("store", "close"),
    "read": ("store", "entrants"),
    "list": ("draws", "append_list"),
    "outcome": ("draws", "append_outcome"),
    "read back": ("draws", "decided"),
    "decide": ("store", "decide"),
    "save": ("store", "save_list"),
    "enter": ("store", "enter"),
    "hold": ("store", "hold"),
}


def _die_after(step: Any, count: int) -> Any:
    calls = 0

    async def dying(*args: Any, **named: Any) -> Any:
        nonlocal calls
        answer = await step(*args, **named)
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return dying


async def main(redis_url: str, event_id: int, step: str, count: int) -> None:
    async with house(redis_url) as own:
        part, name = STEPS[step]
        setattr(getattr(own, part), name, _die_after(getattr(getattr(own, part), name), count))
        await own.holder.run(event_id, SALE)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
