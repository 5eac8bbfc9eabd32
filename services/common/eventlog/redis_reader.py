"""Reading Redis Streams as a member of a group.

Who owns which partition is kept in Redis and decided by `eventlog_share.lua` on Redis' clock. A task says every two
seconds that this reader lives. Partitions are only taken up or given back between two batches. A reader that was away
for too long may go on reading, which harms nobody, but its commits are refused by `eventlog_commit.lua`.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from services.common.cancellation import cancel
from services.common.eventlog.port import EventLogUnavailable, Record
from services.common.eventlog.topics import is_dead
from services.common.lua import Script

LIFE = timedelta(seconds=6)
"""A reader that died is replaced after this time, as with the Kafka adapter."""
RENEWAL = timedelta(seconds=2)
LONGEST_BATCH = timedelta(minutes=5)
"""How long a handler may sit on a batch before its partitions go to another, as with the Kafka adapter."""
BLOCK = timedelta(seconds=1)
RETENTION = timedelta(days=1)
TRIM_INTERVAL = timedelta(minutes=1)

_LUA = Path(__file__).parent.parent / "lua"
_SHARE = Script.load(_LUA / "eventlog_share.lua")
_COMMIT = Script.load(_LUA / "eventlog_commit.lua")
_RELEASE = Script.load(_LUA / "eventlog_release.lua")
_TRIM = Script.load(_LUA / "eventlog_trim.lua")
_log = logging.getLogger(__name__)


def stream_key(topic: str, partition: int) -> str:
    """The stream of a partition."""
    return f"{{eventlog}}:{topic}:{partition}"


@contextmanager
def unavailable() -> Iterator[None]:
    """Whatever Redis fails with becomes EventLogUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        raise EventLogUnavailable("Redis does not answer") from error


@dataclass(slots=True)
class _Position:
    """Where this reader is in a partition that it owns."""

    topic: str
    number: int
    owner: bytes
    read_id: bytes
    read_count: int
    uncommitted: bool = False

    @property
    def stream(self) -> str:
        return stream_key(self.topic, self.number)


class RedisReader:
    """The reader of the port."""

    def __init__(self, client: redis.asyncio.Redis, group: str, topics: Mapping[str, int]) -> None:
        self._client = client
        self._group = group
        self._reader = uuid.uuid4().hex
        self._keys = {
            "members": f"{{eventlog}}:group:{group}:members",
            "owners": f"{{eventlog}}:group:{group}:owners",
        }
        self._partitions = {
            f"{topic}:{number}".encode(): (topic, number) for topic, count in topics.items() for number in range(count)
        }
        # Renewing and settling both read and write these across calls of Redis: one at a time, or what has just been
        # given back would come back with an answer that is older.
        self._sharing = asyncio.Lock()
        self._share: dict[bytes, bytes] = {}
        self._surplus = 0
        self._positions: dict[bytes, _Position] = {}
        self._changed = asyncio.Event()
        self._polled = 0.0
        self._trimmed = 0.0
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Joins the group. Raises EventLogUnavailable."""
        self._polled = _now()
        with unavailable():
            await self._renew()
        self._renewing = asyncio.create_task(self._renew_for_ever())

    async def close(self) -> None:
        """Leaves the group; what was not committed goes to the others."""
        if self._renewing is not None:
            await cancel([self._renewing])
        with suppress(EventLogUnavailable):
            await self._release(self._share, leave=True)

    async def read(self, max_records: int, wait: timedelta) -> list[Record]:
        """See the port."""
        deadline = _now() + wait.total_seconds()
        while True:
            self._polled = _now()
            with unavailable():
                await self._settle()
                records = await self._read_once(max_records, max(0.0, deadline - _now()))
            if records or _now() >= deadline:
                return records

    async def commit(self) -> None:
        """See the port."""
        done = {name: position for name, position in self._positions.items() if position.uncommitted}
        if not done:
            return
        calls = [self._commit_call(name, position) for name, position in done.items()]
        with unavailable():
            answers = await _COMMIT.call_many(self._client, calls)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        for (name, position), answer in zip(done.items(), answers, strict=True):
            position.uncommitted = False
            if not answer:
                self._positions.pop(name)
                _log.warning("commit refused, its partition has moved", extra={"fields": {"topic": position.topic}})

    def _commit_call(self, name: bytes, position: _Position) -> Any:
        return (
            {"owners": self._keys["owners"], "stream": position.stream},
            {
                "partition": name,
                "owner": position.owner,
                "group": self._group,
                "id": position.read_id,
                "entries_read": position.read_count,
            },
        )

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL.total_seconds())
            if _now() - self._polled < LONGEST_BATCH.total_seconds():
                try:
                    await self._renew()
                except (RedisError, OSError) as error:
                    _log.warning("cannot renew", extra={"fields": {"error": type(error).__name__}})

    async def _renew(self) -> None:
        ttl_ms = int(LIFE.total_seconds() * 1000)
        args: Any = {"reader": self._reader, "ttl_ms": ttl_ms, "partitions": list(self._partitions)}
        async with self._sharing:
            mine, self._surplus = await _SHARE.call(self._client, self._keys, args)
            share = dict(zip(mine[::2], mine[1::2], strict=True))
            if share != self._share or self._surplus:
                self._share = share
                self._changed.set()

    async def _settle(self) -> None:
        """Lets go of what is no longer ours or too much, and takes up what is new: nothing, most of the time."""
        if not self._changed.is_set():
            return
        async with self._sharing:
            await self._give_back_surplus()
            for name in [name for name, position in self._positions.items() if self._share.get(name) != position.owner]:
                del self._positions[name]
            for name in self._share.keys() - self._positions.keys():
                self._positions[name] = await self._take_up(name)
            # Last, so that what a cancellation interrupts is done the next time.
            self._changed.clear()

    async def _give_back_surplus(self) -> None:
        idle = [name for name in self._share if name not in self._positions or not self._positions[name].uncommitted]
        surplus = {name: self._share[name] for name in idle[: self._surplus]}
        if surplus:
            await self._release(surplus, leave=False)
        for name in surplus:
            self._share.pop(name, None)
        self._surplus = 0

    async def _release(self, share: Mapping[bytes, bytes], *, leave: bool) -> None:
        pairs = [item for pair in share.items() for item in pair]
        with unavailable():
            await _RELEASE.call(
                self._client, self._keys, {"reader": self._reader, "leave": "1" if leave else "0", "pairs": pairs}
            )

    async def _take_up(self, name: bytes) -> _Position:
        topic, number = self._partitions[name]
        stream = stream_key(topic, number)
        with suppress(ResponseError):  # the group exists already
            await self._client.xgroup_create(stream, self._group, id="0", mkstream=True)
        for group in await self._groups(stream):
            if group["name"] == self._group.encode():
                read = int(group["entries-read"] or 0)
                return _Position(topic, number, self._share[name], group["last-delivered-id"], read)
        raise EventLogUnavailable("the group vanished while it was read")

    async def _groups(self, stream: str) -> list[dict[str, Any]]:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.execute_command("XINFO GROUPS", stream)
            [groups] = await pipe.execute()
        return list(groups)

    async def _read_once(self, max_records: int, seconds: float) -> list[Record]:
        if not self._positions:
            await self._wait_for_share(seconds)
            return []
        names = {position.stream.encode(): name for name, position in self._positions.items()}
        block = min(int(seconds * 1000), int(BLOCK.total_seconds() * 1000))
        found: Any = await self._client.xread(
            {stream: self._positions[name].read_id for stream, name in names.items()},
            count=max(1, max_records // len(names)),
            block=block or None,
        )
        await self._trim_now_and_then()
        records: list[Record] = []
        for stream, entries in found or ():
            if len(records) == max_records:
                break
            # Those that were read stand behind the others next time, so that each has its turn.
            position = self._positions[names[stream]] = self._positions.pop(names[stream])
            records += _take(position, entries, max_records - len(records))
        return records

    async def _wait_for_share(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _trim_now_and_then(self) -> None:
        if _now() - self._trimmed < TRIM_INTERVAL.total_seconds():
            return
        self._trimmed = _now()
        retention: Any = {"retention_ms": int(RETENTION.total_seconds() * 1000)}
        live = [position.stream for position in self._positions.values() if not is_dead(position.topic)]
        await _TRIM.call_many(self._client, [({"stream": stream}, retention) for stream in live])


def _take(position: _Position, entries: list[Any], max_records: int) -> list[Record]:
    taken = entries[:max_records]
    records = [as_record(position.topic, position.number, entry_id, fields) for entry_id, fields in taken]
    position.read_id = taken[-1][0]
    position.read_count += len(taken)
    position.uncommitted = True
    return records


def as_record(topic: str, partition: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Record:
    """An entry of a partition's stream as a record of the port."""
    return Record(
        topic=topic,
        key=fields[b"k"].decode(),
        value=fields[b"v"],
        headers=orjson.loads(fields.get(b"h", b"{}")),
        partition=partition,
        offset=entry_id.decode(),
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
