"""The event log: a port (`port.py`) with two adapters, Kafka and Redis Streams.

Services know the port only; which adapter runs is decided by the URL given to `open_event_log`.
"""

from services.common.eventlog.consumer import Poison, consume, replay, watch_lag
from services.common.eventlog.factory import open_event_log
from services.common.eventlog.port import (
    MAX_VALUE_BYTES,
    Entry,
    EventLog,
    EventLogReader,
    EventLogUnavailable,
    EventLogWriter,
    Record,
    RecordTooLarge,
)

__all__ = [
    "MAX_VALUE_BYTES",
    "Entry",
    "EventLog",
    "EventLogReader",
    "EventLogUnavailable",
    "EventLogWriter",
    "Poison",
    "Record",
    "RecordTooLarge",
    "consume",
    "open_event_log",
    "replay",
    "watch_lag",
]
