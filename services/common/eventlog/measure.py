"""What both adapters do around an append: check, time, count."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.common import metrics
from services.common.eventlog.port import MAX_VALUE_BYTES, Entry, EventLogUnavailable, RecordTooLarge


@contextmanager
def appending(topic: str, entries: Sequence[Entry]) -> Iterator[None]:
    """Refuses values that one of the adapters could not take, and measures the append inside."""
    for key, value, _ in entries:
        if len(value) > MAX_VALUE_BYTES:
            raise RecordTooLarge(f"a record of {topic} for {key} has {len(value)} bytes, above {MAX_VALUE_BYTES}")
    begin = time.monotonic()
    try:
        yield
    except EventLogUnavailable:
        metrics.EVENTLOG_APPEND_FAILURES.labels(topic=topic).inc()
        raise
    metrics.EVENTLOG_APPENDED.labels(topic=topic).inc(len(entries))
    metrics.EVENTLOG_APPEND_DURATION.labels(topic=topic).observe(time.monotonic() - begin)
