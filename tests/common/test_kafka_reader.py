"""What the reader of Kafka asks of its driver."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from services.common.eventlog import EventLogReader, EventLogWriter, kafka_reader, open_event_log

WAIT = timedelta(seconds=5)
DRIVERS_OWN = 0.1
BUSY_SECONDS = 3 * DRIVERS_OWN
PARTITIONS = 4


async def _read_one(reader: EventLogReader) -> None:
    while not await reader.read(10, WAIT):
        pass


async def _heard_after(writer: EventLogWriter, reader: EventLogReader, topic: str) -> float:
    """Seconds until a record is heard of right after a handler that took long, while another had arrived."""
    await writer.append(topic, "key", b"in hand")
    await _read_one(reader)
    await writer.append(topic, "key", b"meanwhile")
    await asyncio.sleep(BUSY_SECONDS)
    await _read_one(reader)
    began = asyncio.get_running_loop().time()
    await writer.append(topic, "key", b"new")
    await _read_one(reader)
    return asyncio.get_running_loop().time() - began


async def _fastest(kafka_url: str) -> float:
    topic = f"busy-{uuid4().hex[:8]}"
    async with open_event_log(kafka_url) as log:
        await log.create_topics({topic: PARTITIONS})
        async with log.writer() as writer, log.reader("readers", [topic]) as reader:
            return min([await _heard_after(writer, reader, topic) for _ in range(3)])


async def test_a_busy_partition_is_heard_while_the_others_are_quiet(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = await _fastest(kafka_url)
    monkeypatch.setattr(kafka_reader, "PREFETCH_SECONDS", DRIVERS_OWN)
    # The control: the driver's own setting waits for partitions that have nothing to say.
    assert ours < await _fastest(kafka_url) / 2
