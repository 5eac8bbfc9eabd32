"""What is told of a wait outside of digests: the same, from the newest one."""

import asyncio
from collections.abc import Collection

from services.queue.digest.reader import DigestReader
from services.queue.digest.report import Digest
from services.queue.failures import Failures
from services.queue.line.domain import Expect, unforeseen


class Foresight:
    """Forecasts for places that are read one by one."""

    def __init__(self, reader: DigestReader) -> None:
        self._reader = reader
        self._failures = Failures("foresight")

    async def expect(self, event_ids: Collection[int]) -> dict[int, Expect]:
        """What to tell in the line of each event. Where that cannot be known now, nothing is told of the wait."""
        answers = await asyncio.gather(*map(self._reader.recent, event_ids), return_exceptions=True)
        outcomes = {
            each: answer
            for each, answer in zip(event_ids, answers, strict=True)
            if isinstance(answer, Digest | Exception)
        }
        served = self._failures.without(outcomes)
        return {each: served[each].expect if each in served else unforeseen for each in event_ids}
