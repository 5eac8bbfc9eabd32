"""The stack for asyncio: the same calls, each in a thread, so that the event loop never waits for a process."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from deploy.local.servers import SERVERS
from deploy.local.services import SERVICES
from deploy.local.site import EventLogKind, ProcessSpec
from deploy.local.stack import Stack


class LocalStack:
    """`async with LocalStack("demo") as stack:` runs a whole stack inside the block, and ends and deletes it after.

    Args are those of `Stack`; with `keep` the folder stays, for its data and logs.
    """

    def __init__(
        self,
        name: str,
        *,
        events: EventLogKind = "kafka",
        settings: Mapping[str, str] | None = None,
        specs: Sequence[ProcessSpec] = (*SERVERS, *SERVICES),
        keep: bool = False,
    ) -> None:
        self.stack = Stack(name, events=events, settings=settings, specs=specs)
        self._keep = keep

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.stack.up))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self.stack.give_up()
            await asyncio.wait([starting])
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._leave())

    async def _leave(self) -> None:
        await asyncio.to_thread(self.stack.down if self._keep else self.stack.remove)

    def url(self, name: str) -> str:
        """Returns the address of a process; see `Stack.url`."""
        return self.stack.url(name)

    async def start(self, name: str) -> None:
        """Starts one process again, on the ports it had; returns when it serves."""
        await asyncio.to_thread(self.stack.start, name)

    async def stop(self, name: str) -> None:
        """Ends one process in good order."""
        await asyncio.to_thread(self.stack.stop, name)

    async def kill(self, name: str) -> None:
        """Kills one process with SIGKILL, as a crash would."""
        await asyncio.to_thread(self.stack.kill, name)

    async def up(self, names: Iterable[str]) -> None:
        """Starts the named processes and what they need."""
        await asyncio.to_thread(self.stack.up, names)
