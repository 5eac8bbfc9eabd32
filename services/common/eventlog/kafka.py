"""The event log on Apache Kafka: the default, and the only one for more than one machine.

**What an acknowledgement promises:** every in-sync replica of the partition has the record (`acks=all`). It survives
the loss of any broker as long as one in-sync replica is left; with a single broker it survives kill -9 of the broker,
and a power cut only as far as the machine had written its page cache. Repeats inside one producer are dropped by the
broker (idempotence), so that order by key holds across its retries.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from services.common.eventlog.kafka_reader import KafkaReader
from services.common.eventlog.kafka_scan import partition_of, scan
from services.common.eventlog.kafka_writer import KafkaWriter
from services.common.eventlog.port import EventLogUnavailable, Record
from services.common.eventlog.topics import KEPT

REQUEST_MS = 3000
ADMIN_SECONDS = 10.0
KNOWN_POLL_SECONDS = 0.05
REPLICAS = 2
"""Two copies where there are brokers for them: design section 9."""
_GROUP_MEMBERS_KNOW = -1  # a committed offset that was never committed


@asynccontextmanager
async def open_kafka(url: str) -> AsyncIterator["KafkaLog"]:
    """Yields the log at `kafka://host:port[,host:port]`; connects when first used."""
    async with AsyncExitStack() as stack:
        yield KafkaLog(urlsplit(url).netloc.split(","), stack)


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:  # TimeoutError is an OSError
        raise EventLogUnavailable("Kafka does not answer") from error


class KafkaLog:
    """The port on Kafka. Made by `open_kafka`."""

    def __init__(self, servers: list[str], stack: AsyncExitStack) -> None:
        self._servers = servers
        self._stack = stack
        self._opening = asyncio.Lock()
        self._admin: Any = None
        self._meter: Any = None

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[KafkaWriter]:
        """See the port."""
        writer = KafkaWriter(self._servers)
        try:
            with suppress(EventLogUnavailable):
                await writer.connect()
            yield writer
        finally:
            await writer.close()

    @asynccontextmanager
    async def reader(self, group: str, topics: Sequence[str]) -> AsyncIterator[KafkaReader]:
        """See the port."""
        reader = KafkaReader(self._servers, group, topics)
        try:
            await reader.start()
            yield reader
        finally:
            await reader.close()

    async def read_all(
        self, topic: str, *, key: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Record, None]:
        """See the port. A consumer of its own, without a group."""
        with _unavailable():
            async with asyncio.timeout(ADMIN_SECONDS):
                partitions = await self._partitions(topic)
            if not partitions:
                raise EventLogUnavailable(f"topic {topic} does not exist yet")
            wanted = partitions if key is None else [partition_of(key, partitions)]
            async with aclosing(scan(self._servers, wanted, key, since)) as records:
                async for record in records:
                    yield record

    async def ping(self) -> None:
        """See the port."""
        with _unavailable():
            async with asyncio.timeout(REQUEST_MS / 1000):
                await (await self._administrator()).describe_cluster()

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """See the port. Topics get two replicas where there are two brokers."""
        with _unavailable():
            async with asyncio.timeout(ADMIN_SECONDS):
                admin = await self._administrator()
                known = set(await admin.list_topics())
                brokers = len((await admin.describe_cluster())["brokers"])
                wanted = [
                    NewTopic(name, count, min(REPLICAS, brokers), topic_configs=_configs(name))
                    for name, count in topics.items()
                    if name not in known
                ]
                if wanted:
                    _check_created(await admin.create_topics(wanted))
                # A reader that joins before the brokers know of a topic is given none of its partitions, and notices
                # only when its metadata is old: half a minute without records.
                while not _all_known(await admin.describe_topics(list(topics)), topics):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(KNOWN_POLL_SECONDS)

    async def lag(self, group: str, topic: str) -> int:
        """See the port."""
        with _unavailable():
            async with asyncio.timeout(ADMIN_SECONDS):
                meter = await self._offset_meter()
                partitions = await self._partitions(topic)
                first, last = await asyncio.gather(meter.beginning_offsets(partitions), meter.end_offsets(partitions))
                done = await (await self._administrator()).list_consumer_group_offsets(group)
        return sum(max(0, last[tp] - max(first[tp], _committed(done, tp))) for tp in partitions)

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        described = await (await self._administrator()).describe_topics([topic])
        return [TopicPartition(topic, entry["partition"]) for entry in described[0]["partitions"]]

    async def _administrator(self) -> Any:
        async with self._opening:
            if self._admin is None:
                admin = AIOKafkaAdminClient(bootstrap_servers=self._servers, request_timeout_ms=REQUEST_MS)
                await _start(admin.start, admin.close)
                self._stack.push_async_callback(admin.close)
                self._admin = admin
            return self._admin

    async def _offset_meter(self) -> Any:
        async with self._opening:
            if self._meter is None:
                meter = AIOKafkaConsumer(bootstrap_servers=self._servers, request_timeout_ms=REQUEST_MS)
                await _start(meter.start, meter.stop)
                self._stack.push_async_callback(meter.stop)
                self._meter = meter
            return self._meter


async def _start(start: Any, stop: Any) -> None:
    try:
        await start()
    except BaseException:
        await stop()
        raise


def _configs(topic: str) -> dict[str, str]:
    return {"retention.ms": "-1"} if topic in KEPT else {}


def _committed(offsets: Mapping[TopicPartition, Any], partition: TopicPartition) -> int:
    return offsets[partition].offset if partition in offsets else _GROUP_MEMBERS_KNOW


def _all_known(described: Sequence[Any], topics: Mapping[str, int]) -> bool:
    """Whether every partition of every topic has a leader."""
    led = {
        topic["topic"]: sum(partition["leader"] >= 0 for partition in topic["partitions"])
        for topic in described
        if not topic["error_code"]
    }
    return all(led.get(name, 0) >= count for name, count in topics.items())


def _check_created(response: Any) -> None:
    for topic, code, *_ in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # someone else made it at the same moment
            raise error(topic)
