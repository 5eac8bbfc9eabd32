"""The event log on Redis Streams: small installs, and machines without Java.

One stream per partition; a key always goes to the same one (CRC-32), so that order by key holds. Each partition is
owned by one reader of a group at a time, as in Kafka: `redis_reader.py`. The position of a group is the
last-delivered id of a native consumer group, so that `XINFO GROUPS` shows it. XREADGROUP is not used: it hands
entries of one stream to whoever asks first, which would reorder a key, and it moves the position at delivery, which a
reader that lost its partition could still do. A fenced commit moves it instead.

**What an acknowledgement promises:** Redis has executed the XADD and, with `appendonly yes`, handed it to the kernel
before it answered. The record survives kill -9 of the server. With `appendfsync everysec` a power cut can take the
last second with it, and a failover to a replica whatever the replica did not have yet; WAITAOF could wait for the
disk, at up to a second per append. Where that is not enough, use Kafka.

**Trimming:** readers trim what is older than `RETENTION` *and* committed by every group that exists. Dead-letter
topics are never trimmed. All keys share one hash tag: a Redis Cluster keeps the whole log on one node.
"""

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from services.common.eventlog.measure import appending
from services.common.eventlog.port import Entry, EventLogUnavailable, Record
from services.common.eventlog.redis_reader import RedisReader, as_record, stream_key, unavailable
from services.common.redis import open_redis

APPEND_SECONDS = 4.0
"""Below the 5 s deadline of a reservation, so that its caller is still there to be told."""
SCAN_ENTRIES = 50
"""Entries of one read of `read_all`: a few megabytes, unless all of them are as large as a value can be."""
TOPICS_KEY = "{eventlog}:topics"

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_redis_streams(url: str) -> AsyncIterator["RedisStreamsLog"]:
    """Yields the log at `redis://host:port/db`; connects when first used."""
    async with open_redis(url) as client:
        yield RedisStreamsLog(client)


class _Topics:
    """Partition counts, which never change once a topic exists."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._counts: dict[str, int] = {}

    async def partitions(self, topic: str) -> int:
        if topic not in self._counts:
            count = await self._client.hget(TOPICS_KEY, topic)
            if count is None:
                raise EventLogUnavailable(f"topic {topic} does not exist yet")
            self._counts[topic] = int(count)
        return self._counts[topic]


class RedisStreamsWriter:
    """The writer of the port. Safe for concurrent use."""

    def __init__(self, client: redis.asyncio.Redis, topics: _Topics) -> None:
        self._client = client
        self._topics = topics

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        """See the port."""
        await self.append_many(topic, [(key, value, headers)])

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        """See the port. One transaction: all or none, unless the answer is lost."""
        if not entries:
            return
        with appending(topic, entries), unavailable():
            async with asyncio.timeout(APPEND_SECONDS):
                count = await self._topics.partitions(topic)
                async with self._client.pipeline(transaction=len(entries) > 1) as pipe:
                    for key, value, headers in entries:
                        pipe.xadd(stream_key(topic, _partition(key, count)), _fields(key, value, headers))
                    await pipe.execute()


def _partition(key: str, count: int) -> int:
    return zlib.crc32(key.encode()) % count


def _fields(key: str, value: bytes, headers: Mapping[str, str]) -> dict[Any, Any]:
    fields: dict[Any, Any] = {b"k": key, b"v": value}
    if headers:
        fields[b"h"] = orjson.dumps(dict(headers))
    return fields


class RedisStreamsLog:
    """The port on Redis Streams. Made by `open_redis_streams`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._topics = _Topics(client)

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[RedisStreamsWriter]:
        """See the port."""
        yield RedisStreamsWriter(self._client, self._topics)

    @asynccontextmanager
    async def reader(self, group: str, topics: Sequence[str]) -> AsyncIterator[RedisReader]:
        """See the port."""
        with unavailable():
            counts = {topic: await self._topics.partitions(topic) for topic in topics}
        reader = RedisReader(self._client, group, counts)
        try:
            await reader.start()
            yield reader
        finally:
            await reader.close()

    async def read_all(
        self, topic: str, *, key: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Record, None]:
        """See the port."""
        with unavailable():
            count = await self._topics.partitions(topic)
            numbers = range(count) if key is None else [_partition(key, count)]
            # The end as of now, of all partitions together.
            async with self._client.pipeline() as pipe:
                for number in numbers:
                    pipe.xrevrange(stream_key(topic, number), count=1)
                newest: Any = await pipe.execute()
            for number, entries in zip(numbers, newest, strict=True):
                for last, _ in entries:
                    async for record in self._scan(topic, number, _first_id(since), last):
                        if key is None or record.key == key:
                            yield record

    async def _scan(self, topic: str, number: int, first: bytes, last: bytes) -> AsyncIterator[Record]:
        while True:
            entries: Any = await self._client.xrange(stream_key(topic, number), first, last, SCAN_ENTRIES)
            if not entries:
                return
            for entry_id, fields in entries:
                yield as_record(topic, number, entry_id, fields)
            first = b"(" + entries[-1][0]

    async def ping(self) -> None:
        """See the port."""
        with unavailable():
            await self._client.ping()

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """See the port."""
        with unavailable():
            for topic, count in topics.items():
                await self._client.hsetnx(TOPICS_KEY, topic, str(count))
            await self._warn_unless_durable()

    async def _warn_unless_durable(self) -> None:
        try:
            answer: Any = await self._client.config_get("appendonly")
        except ResponseError:  # managed servers do not tell
            return
        if answer.get("appendonly", answer.get(b"appendonly")) in {"no", b"no"}:
            _log.warning("this Redis keeps no append-only file: the event log will not survive its restart")

    async def lag(self, group: str, topic: str) -> int:
        """See the port."""
        with unavailable():
            keys = [stream_key(topic, number) for number in range(await self._topics.partitions(topic))]
            async with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.execute_command("XLEN", key)
                    pipe.execute_command("XINFO GROUPS", key)
                answers = await pipe.execute(raise_on_error=False)
            return sum(_lag(group, *pair) for pair in zip(answers[::2], answers[1::2], strict=True))


def _first_id(since: datetime | None) -> bytes:
    # An id begins with the time of its append, in ms on Redis' clock.
    return b"-" if since is None else b"%d" % max(0, int(since.timestamp() * 1000))


def _lag(group: str, length: Any, groups: Any) -> int:
    if isinstance(length, RedisError):
        raise length
    if isinstance(groups, RedisError):  # the stream does not exist: nothing was ever appended
        return 0
    for entry in groups:
        if entry["name"] == group.encode():
            return int(entry["lag"] if entry["lag"] is not None else length)
    return int(length)
