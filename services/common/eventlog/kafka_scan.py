"""Reading Kafka from the beginning to the end, as a member of no group."""

from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from services.common.eventlog.kafka_reader import as_record
from services.common.eventlog.port import EventLogUnavailable, Record

REQUEST_MS = 5000
STALLED_MS = 10_000
"""A partition that has more to give and gives nothing for so long has lost its leader."""
SCAN_RECORDS = 500

_choose_partition = DefaultPartitioner()


def partition_of(key: str, partitions: Sequence[TopicPartition]) -> TopicPartition:
    """Where the writer puts this key."""
    by_number = {each.partition: each for each in partitions}
    return by_number[_choose_partition(key.encode(), sorted(by_number), [])]


async def scan(
    servers: Sequence[str], partitions: Collection[TopicPartition], key: str | None, since: datetime | None
) -> AsyncGenerator[Record, None]:
    """See `EventLog.read_all`. Raises what the driver raises, and EventLogUnavailable."""
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=list(servers), enable_auto_commit=False, request_timeout_ms=REQUEST_MS
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(partitions)
        behind = await _begin(consumer, ends, since)
        while behind:
            found = await consumer.getmany(*behind, timeout_ms=STALLED_MS, max_records=SCAN_RECORDS)
            if not found:
                raise EventLogUnavailable("Kafka gives no more, and there is more")
            for partition, messages in found.items():
                for message in messages:
                    if message.offset < ends[partition] and (key is None or message.key == key.encode()):
                        yield as_record(message)
            behind = [each for each in behind if await consumer.position(each) < ends[each]]
    finally:
        await consumer.stop()


async def _begin(consumer: Any, ends: dict[TopicPartition, int], since: datetime | None) -> list[TopicPartition]:
    """Puts the consumer to where reading starts; answers the partitions that have something to read."""
    starts: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
    if since is not None:
        times = await consumer.offsets_for_times(dict.fromkeys(ends, max(0, int(since.timestamp() * 1000))))
        starts = {each: found.offset if (found := times[each]) else ends[each] for each in ends}
    behind = [each for each in ends if starts[each] < ends[each]]
    consumer.assign(behind)
    for each in behind:
        consumer.seek(each, starts[each])
    return behind
