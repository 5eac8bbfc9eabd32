"""Moments and durations as scripts take and answer them: milliseconds, on Redis' clock."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(value: int | bytes | str) -> datetime:
    """The moment so many milliseconds after the epoch."""
    return _EPOCH + timedelta(milliseconds=int(value))


def span_ms(span: timedelta) -> int:
    """A duration in milliseconds."""
    return span // _MILLISECOND
