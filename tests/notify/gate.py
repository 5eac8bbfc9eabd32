"""A door in front of the push provider that tests open, shut, or leave unanswered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import urlsplit


class Door(Enum):
    OPEN = "everything passes"
    SHUT = "connections are cut"
    SILENT = "connections are taken and never answered"


class Gate:
    """A TCP proxy that passes requests on after a delay in seconds. Setting the door cuts the connections of before."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._door = Door.OPEN
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.delay = 0.0
        self.url = ""

    def set(self, door: Door) -> None:
        self._door = door
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self._door is Door.OPEN:
                await self._pass(reader, writer)
            elif self._door is Door.SILENT:
                await reader.read(-1)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(_copy(reader, far_writer, self.delay), _copy(far_reader, writer))
        finally:
            far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float = 0.0) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def gate_to(target: str) -> AsyncIterator[Gate]:
    gate = Gate(target)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0)
    gate.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield gate
    finally:
        server.close()
        gate.set(Door.SHUT)
        await asyncio.sleep(0)
