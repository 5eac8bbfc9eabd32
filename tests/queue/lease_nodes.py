"""Three real Redis nodes that vote on leases, to be killed, stopped and emptied, and processes that want leases."""

import os
import signal
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from redis.asyncio import Redis

from deploy.local import packages, readiness
from deploy.local.servers import VALKEY
from deploy.local.site import ProcessSpec, Site
from deploy.local.stack import Stack
from services.common.redis import open_redis
from services.queue.admission.lease import Floors, Leases
from services.queue.admission.nodes import Node

NAMES = ("node-a", "node-b", "node-c")
EVENT = 7
# Far above what nodes of a busy machine take, and short enough to wait for its end.
TTL = timedelta(milliseconds=900)


def _valkey(name: str) -> ProcessSpec:
    def command(site: Site) -> list[str]:
        port = str(site.port(name, "redis"))
        options = ("--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no")
        return [str(packages.valkey_server()), *options, "--dir", str(site.data(name))]

    return ProcessSpec(name, command, lambda site: readiness.valkey(site.port(name, "redis")), prepare=VALKEY.prepare)


SPECS = tuple(map(_valkey, NAMES))


@dataclass
class LeaseNodes:
    """The nodes by name. One that was killed and started again has lost its memory."""

    stack: Stack
    stopped: set[str] = field(default_factory=set)

    def url(self, name: str) -> str:
        return f"redis://127.0.0.1:{self.stack.site.port(name, 'redis')}/0"

    def kill(self, *names: str) -> None:
        for name in names:
            self.stack.kill(name)

    def start(self, *names: str) -> None:
        for name in names:
            self.stack.start(name)

    def pause(self, name: str) -> None:
        """Takes the node's time away: connections stay, nothing is answered."""
        self._signal(name, signal.SIGSTOP)
        self.stopped.add(name)

    def resume(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)
        self.stopped.discard(name)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.stack.running(name)
        assert process is not None
        os.kill(process.pid, number)

    async def empty(self, *names: str) -> None:
        for name in names:
            async with open_redis(self.url(name)) as redis:
                await redis.flushall()

    async def mend(self) -> None:
        """All of them run again and are empty."""
        for name in list(self.stopped):
            self.resume(name)
        self.stack.up()
        await self.empty(*NAMES)

    @asynccontextmanager
    async def process(self, floors: Floors | None = None, ttl: timedelta = TTL) -> AsyncIterator[Leases]:
        """A process that wants leases, with connections of its own."""
        async with AsyncExitStack() as stack:
            clients: list[Redis] = [await stack.enter_async_context(open_redis(self.url(name))) for name in NAMES]
            nodes = [Node(client) for client in clients]
            for node in nodes:
                stack.push_async_callback(node.aclose)
            yield Leases(nodes, floors or written({}), ttl)


def written(fences: Mapping[int, int]) -> Floors:
    """Lines in which these fences are written."""

    async def floors(event_ids: Collection[int]) -> Mapping[int, int]:
        return {each: fences.get(each, 0) for each in event_ids}

    return floors


async def fence_of(leases: Leases, event_id: int = EVENT) -> int | None:
    """The fence with which the process ticks the event now; 0 if it does not tick it, None if it needs none."""
    return (await leases.hold([event_id])).get(event_id, 0)
