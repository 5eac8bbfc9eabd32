"""One event must not stop the others: what becomes of the failures in the middle of a batch."""

import logging
from collections.abc import Mapping
from typing import TypeVar

from services.common import metrics

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Failures:
    """The events that a loop could not serve. Each is counted whenever it fails, and logged when it begins to."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._failing: set[int] = set()

    def without(self, outcomes: Mapping[int, T | Exception]) -> dict[int, T]:
        """The outcomes by event, without those that are failures."""
        served: dict[int, T] = {}
        for event_id, outcome in outcomes.items():
            if isinstance(outcome, Exception):
                self._report(event_id, outcome)
            else:
                served[event_id] = outcome
        self._failing -= served.keys()
        return served

    def _report(self, event_id: int, error: Exception) -> None:
        metrics.QUEUE_EVENT_FAILURES.labels(self._task).inc()
        if event_id not in self._failing:
            self._failing.add(event_id)
            fields = {"task": self._task, "event_id": event_id}
            _log.error("an event cannot be served, the others go on", exc_info=error, extra={"fields": fields})
