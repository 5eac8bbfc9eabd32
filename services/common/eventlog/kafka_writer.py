"""Appending to Kafka: an idempotent producer that is thrown away as soon as an append fails.

aiokafka repeats an idempotent batch for ever, and flushes it when it is stopped. A caller that was told
`EventLogUnavailable` would see its record appear minutes later, when the broker is back. So the first failure discards
the producer with everything in it; what had reached the broker by then may be written, nothing after.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from services.common.eventlog.measure import appending
from services.common.eventlog.port import Entry, EventLogUnavailable

APPEND_SECONDS = 4.0
"""Below the 5 s deadline of a reservation, so that its caller is still there to be told."""
REQUEST_MS = 2000
BATCH_BYTES = 256 * 1024
REQUEST_BYTES = 1_048_576 + 4096
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def _producer(servers: Sequence[str]) -> Any:
    return AIOKafkaProducer(
        bootstrap_servers=list(servers),
        enable_idempotence=True,
        acks="all",
        # Whatever arrives while a request is under way goes with the next one; waiting longer would only add latency.
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        max_request_size=REQUEST_BYTES,
        # Values are packed protobufs full of ids and hashes: compression would cost more than it saves.
        compression_type=None,
        request_timeout_ms=REQUEST_MS,
        retry_backoff_ms=250,
        metadata_max_age_ms=30_000,
    )


class KafkaWriter:
    """The writer of the port. Safe for concurrent use."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self._producer: Any = None
        self._starting = asyncio.Lock()

    async def connect(self) -> None:
        """Connects now rather than at the first append. Raises EventLogUnavailable."""
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                await self._ready()
        except (KafkaError, OSError) as error:
            raise EventLogUnavailable("Kafka does not answer") from error

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        """See the port."""
        await self.append_many(topic, [(key, value, headers)])

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        """See the port. Entries of one partition travel in one batch."""
        with appending(topic, entries):
            producer = None
            try:
                async with asyncio.timeout(APPEND_SECONDS):
                    producer = await self._ready()
                    await _send(producer, topic, entries)
            except (KafkaError, OSError) as error:  # TimeoutError is an OSError
                await self._discard(producer)
                raise EventLogUnavailable("Kafka did not acknowledge in time") from error

    async def close(self) -> None:
        """Sends nothing more: every caller that was told of success has its acknowledgement already."""
        await self._discard(self._producer)

    async def _ready(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer = _producer(self._servers)
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _discard(self, producer: Any) -> None:
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        await asyncio.shield(_abandon(producer))


async def _send(producer: Any, topic: str, entries: Sequence[Entry]) -> None:
    acknowledgements = [
        await producer.send(
            topic, value, key.encode(), headers=[(name, text.encode()) for name, text in headers.items()]
        )
        for key, value, headers in entries
    ]
    await asyncio.gather(*acknowledgements)


async def _abandon(producer: Any) -> None:
    """Stops a producer without its flush, which would wait for a dead broker for ever. There is no public way to."""
    producer._closed = True  # noqa: SLF001 - see above
    sender, client = producer._sender, producer.client  # noqa: SLF001 - see above
    if sender.sender_task is not None:
        sender.sender_task.cancel()
    await client.close()
    with suppress(Exception, asyncio.CancelledError):  # it ends by whatever the closed sockets raise
        await sender.sender_task
