"""What the event log promises, whichever adapter runs.

* Records of one key are read in the order in which their appends were acknowledged, by one reader of a group at a time.
* Delivery is at least once: a record comes again until a commit that covers it has succeeded. Readers drop repeats.
* A group that is new starts at the beginning of a topic, not at its end.

What an acknowledgement promises differs by adapter, and is said in each of them.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

MAX_VALUE_BYTES = 1_000_000
"""The largest value that both adapters take: a Kafka broker refuses batches above 1 MiB unless told otherwise."""

Entry = tuple[str, bytes, Mapping[str, str]]
"""Key, value, headers."""


class EventLogUnavailable(Exception):
    """The log did not answer in time.

    After a failed append it is unknown whether the record was written; repeat it and let readers drop the repeat.
    """

    reason = "UNAVAILABLE"


class RecordTooLarge(ValueError):
    """The value is larger than `MAX_VALUE_BYTES`; nothing was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read. `offset` is its place within the partition, in the spelling of the adapter."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    partition: int = 0
    offset: str = ""


class EventLogWriter(Protocol):
    """Appends records. Safe for concurrent use."""

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str] = ...) -> None:
        """Appends one record and returns after the log has acknowledged it.

        Raises:
            EventLogUnavailable: within a few seconds, when no acknowledgement came.
            RecordTooLarge: nothing was written.
        """

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        """Appends in order and returns after all were acknowledged. Not atomic: a failure may leave a part written."""


class EventLogReader(Protocol):
    """Reads as one member of a group. Not for concurrent use: read, handle, commit, read."""

    async def read(self, max_records: int, wait: timedelta) -> list[Record]:
        """Up to `max_records` records of the partitions that this reader owns; none if none came within `wait`.

        Raises:
            EventLogUnavailable: open another reader to go on from the last commit.
        """

    async def commit(self) -> None:
        """Declares everything read so far as done.

        What another reader has taken over meanwhile is left out (and comes to that reader again).

        Raises:
            EventLogUnavailable: the records may come again.
        """


class EventLog(Protocol):
    """A log with named topics, each of a fixed number of partitions."""

    def writer(self) -> AbstractAsyncContextManager[EventLogWriter]:
        """A writer. Opening it never fails: while the log is away, its appends do, and go on when the log is back."""

    def reader(self, group: str, topics: Sequence[str]) -> AbstractAsyncContextManager[EventLogReader]:
        """A new member of a group; all members of a group read the same topics. Leaving the context leaves the group.

        Raises:
            EventLogUnavailable: on entering.
        """

    def read_all(
        self, topic: str, *, key: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Record, None]:
        """What a topic holds, from its beginning to its end as of the first step; belongs to no group.

        Records that are appended meanwhile are left out. Order holds within each partition. Of `key` alone, if it is
        given, which reads one partition; and without what was appended before `since`, by the clocks of the log (Kafka:
        of the writers), so leave room. Close it (`aclosing`) where it is not read to the end.

        Raises:
            EventLogUnavailable: at any step; what was read by then is not the whole.
        """

    async def ping(self) -> None:
        """Returns if the log answers, else raises EventLogUnavailable."""

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """Creates the topics (name → partitions) that do not exist yet; leaves the others as they are.

        Those in `topics.KEPT` lose nothing however old it is.
        """

    async def lag(self, group: str, topic: str) -> int:
        """Number of records of the topic that the group has not committed."""
