"""Names and partition counts of every topic.

Ten partitions let ten workers share a topic; order holds by key, and the key is always the sale event or the account.
"""

from collections.abc import Mapping
from types import MappingProxyType

BOOKING_COMMANDS = "booking.commands"
BOOKING_EVENTS = "booking.events"
SALE_PROGRESS = "sale.progress"
QUEUE_EVENTS = "queue.events"
QUEUE_DRAWS = "queue.draws"
QUEUE_LINES = "queue.lines"

KEPT = frozenset({QUEUE_DRAWS, QUEUE_LINES})
"""Topics whose records are read again from the beginning, long after they were written: no age ends them."""

_DEAD = ".dead"


def dead(topic: str) -> str:
    """The topic that holds what could not be handled."""
    return topic + _DEAD


def is_dead(topic: str) -> bool:
    """Whether a topic holds what could not be handled."""
    return topic.endswith(_DEAD)


_LIVE = {
    BOOKING_COMMANDS: 10,
    BOOKING_EVENTS: 10,
    SALE_PROGRESS: 1,
    QUEUE_EVENTS: 10,
    QUEUE_DRAWS: 1,
    QUEUE_LINES: 1,
}

TOPICS: Mapping[str, int] = MappingProxyType(_LIVE | {dead(name): count for name, count in _LIVE.items()})
"""For `EventLog.create_topics`; a dead-letter topic has the partitions of its topic, so that order by key survives."""
