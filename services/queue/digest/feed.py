"""One digest per event and second for everyone who follows it, while somebody does."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.queue.digest.reader import DigestReader
from services.queue.digest.report import Digest, message
from services.queue.failures import Failures
from services.queue.line.domain import EventNotFound

INTERVAL: Final = timedelta(seconds=1)
# Whoever comes is told what the others were told last, and a step does without a reading that somebody else just took.
_CURRENT: Final = INTERVAL * 1.5
_JUST_TAKEN: Final = INTERVAL * 0.5


class _Channel:
    """One event: what is told of it, and who waits for more."""

    __slots__ = ("digest", "followers", "is_missing", "message", "renewed")

    def __init__(self) -> None:
        self.followers = 0
        self.is_missing = False
        self.digest: Digest | None = None
        self.message: pb.WatchDigestResponse | None = None
        self.renewed = asyncio.Event()

    def wake(self) -> None:
        """Wakes everyone who waits now."""
        self.renewed.set()
        self.renewed = asyncio.Event()


class DigestFeed:
    """The streams of one process. `step` is to be called every second, and `close` when the process drains."""

    def __init__(self, reader: DigestReader) -> None:
        self._reader = reader
        self._channels: dict[int, _Channel] = {}
        self._failures = Failures("digest")
        self._is_open = True

    async def follow(self, event_id: int) -> AsyncGenerator[pb.WatchDigestResponse, None]:
        """The digest now, then each new one, until the process drains. Who is slow hears the newest, not those between.

        Raises EventNotFound, also when the event goes; and what reading raises, before the first digest.
        """
        channel = self._channels.setdefault(event_id, _Channel())
        channel.followers += 1
        told: pb.WatchDigestResponse | None = None
        try:
            if channel.message is None:
                await self._renew(event_id, channel, _CURRENT)
            while self._is_open:
                if channel.is_missing:
                    raise EventNotFound
                if channel.message is told:
                    await channel.renewed.wait()
                elif (told := channel.message) is not None:
                    yield told
        finally:
            self._leave(event_id, channel)

    def _leave(self, event_id: int, channel: _Channel) -> None:
        channel.followers -= 1
        if not channel.followers:
            del self._channels[event_id]

    async def _renew(self, event_id: int, channel: _Channel, max_age: timedelta) -> None:
        digest = await self._reader.digest(event_id, max_age)
        if digest is not channel.digest:
            channel.digest, channel.message = digest, message(digest)
            channel.wake()

    async def step(self) -> None:
        """Takes a new digest of every event that is followed. One that cannot be read is told nothing this time."""
        channels = dict(self._channels)
        readings = (self._renew(event_id, channel, _JUST_TAKEN) for event_id, channel in channels.items())
        outcomes = dict(zip(channels, await asyncio.gather(*readings, return_exceptions=True), strict=True))
        for event_id, outcome in outcomes.items():
            if isinstance(outcome, EventNotFound):
                channels[event_id].is_missing = True
                channels[event_id].wake()
        # Cancellation of this step itself does not come as an outcome.
        self._failures.without({event_id: each for event_id, each in outcomes.items() if not _ends(each)})

    def close(self) -> None:
        """Ends every stream, and those that come, so that a drain need not wait for them."""
        self._is_open = False
        for channel in self._channels.values():
            channel.wake()


def _ends(outcome: BaseException | None) -> bool:
    return isinstance(outcome, EventNotFound) or not isinstance(outcome, Exception | None)
