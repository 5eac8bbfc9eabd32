"""Reading from Kafka as a member of a group, with commits that cannot overtake a rebalance.

When partitions move, the batch in hand may be finished and committed first (`HANDOVER_SECONDS`); what is not done by
then is dropped from the next commit, and its new owner reads it again. A commit that comes too late even for that is
refused by the broker, since it carries the generation of the group that it was read in.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from services.common.eventlog.port import EventLogUnavailable, Record

REQUEST_MS = 5000
SESSION_MS = 6000
"""A reader that died is replaced after this time: the least that a broker accepts by default."""
HEARTBEAT_MS = 2000
HANDOVER_SECONDS = 3.0
"""Within the session, or the group would go on without this member."""
PREFETCH_SECONDS = 2.0
"""How long the other partitions of a broker wait while records of one are not taken yet. Asking for them alone gains
nothing while a batch is handled, and the question stands for `fetch_max_wait_ms`: that long, nothing new is heard of
the busy partition. The driver's 0.1 s is less than a large batch takes."""
COMMIT_SECONDS = 5.0
CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)


def _consumer(servers: Sequence[str], group: str) -> Any:
    return AIOKafkaConsumer(
        bootstrap_servers=list(servers),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=REQUEST_MS,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        # How long a handler may sit on a batch (an outage of the database, say) before its partitions go to another.
        max_poll_interval_ms=300_000,
        # An idle reader asks twice a second; a new record answers the question at once.
        fetch_max_wait_ms=500,
        metadata_max_age_ms=30_000,
    )


class KafkaReader(ConsumerRebalanceListener):  # type: ignore[misc]  # the driver has no types
    """The reader of the port."""

    def __init__(self, servers: Sequence[str], group: str, topics: Sequence[str]) -> None:
        self._topics = list(topics)
        self._consumer = _consumer(servers, group)
        self._uncommitted: dict[TopicPartition, int] = {}
        self._nothing_in_hand = asyncio.Event()
        self._nothing_in_hand.set()
        self._assigned = asyncio.Event()

    async def start(self) -> None:
        """Connects and joins the group. Raises EventLogUnavailable."""
        self._consumer.subscribe(self._topics, listener=self)
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            raise EventLogUnavailable("Kafka does not answer") from error
        # The driver has no public name for it.
        self._consumer._fetcher._prefetch_backoff = PREFETCH_SECONDS  # noqa: SLF001

    async def close(self) -> None:
        """Leaves the group; what was not committed goes to the others."""
        self._nothing_in_hand.set()
        with suppress(KafkaError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._consumer.stop()

    async def read(self, max_records: int, wait: timedelta) -> list[Record]:
        """See the port."""
        deadline = asyncio.get_running_loop().time() + wait.total_seconds()
        try:
            async with asyncio.timeout_at(deadline):
                await self._assigned.wait()
        except TimeoutError:
            return []
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            found = await self._consumer.getmany(timeout_ms=int(left * 1000), max_records=max_records)
        except (KafkaError, OSError) as error:
            raise EventLogUnavailable("Kafka does not answer") from error
        return self._take(found)

    def _take(self, found: dict[TopicPartition, list[Any]]) -> list[Record]:
        records: list[Record] = []
        for partition, messages in found.items():
            records.extend(map(as_record, messages))
            self._uncommitted[partition] = messages[-1].offset + 1
        if self._uncommitted:
            self._nothing_in_hand.clear()
        return records

    async def commit(self) -> None:
        """See the port."""
        offsets = dict(self._uncommitted)
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            _log.warning("commit refused, its partitions have moved", extra={"fields": {"partitions": len(offsets)}})
        except (KafkaError, OSError) as error:
            raise EventLogUnavailable("Kafka does not answer") from error
        self._forget()

    def _forget(self) -> None:
        self._uncommitted.clear()
        self._nothing_in_hand.set()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Called by the driver before partitions move."""
        self._assigned.clear()
        if revoked:
            with suppress(TimeoutError):
                async with asyncio.timeout(HANDOVER_SECONDS):
                    await self._nothing_in_hand.wait()
        self._forget()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Called by the driver after partitions have moved."""
        del assigned
        self._forget()
        self._assigned.set()


def as_record(message: Any) -> Record:
    """A message of the driver as a record of the port."""
    return Record(
        topic=message.topic,
        # A stranger's record must not stop the partition here: the handler decides what it cannot use.
        key=(message.key or b"").decode(errors="replace"),
        value=message.value or b"",
        headers={name: (text or b"").decode(errors="replace") for name, text in message.headers},
        partition=message.partition,
        offset=str(message.offset),
    )
