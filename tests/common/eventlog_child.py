"""A reader in a process of its own, driven by lines on standard input, so that tests can kill or freeze it.

Commands: `read N` (until N records came), `commit`. Each is answered by one line.
"""

import asyncio
import sys
from datetime import timedelta

from services.common.eventlog import EventLogReader, open_event_log


async def _answer(reader: EventLogReader, command: str) -> str:
    if command == "commit":
        await reader.commit()
        return "committed"
    wanted = int(command.removeprefix("read "))
    values: list[str] = []
    while len(values) < wanted:
        records = await reader.read(wanted - len(values), timedelta(seconds=1))
        values += [record.value.decode() for record in records]
    return " ".join(values)


async def _run(url: str, group: str, topic: str) -> None:
    async with open_event_log(url) as log, log.reader(group, [topic]) as reader:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await _answer(reader, line.strip()), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
