"""Follows the line of one event: one stream of digests for everyone who looks at it through this process."""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.message import Message
from grpc import aio

from edge.line.digest import LineView, view_of

OpenDigests = Callable[[Message], Any]

# A digest that came longer ago than this says nothing about now. They come once a second, give or take a tenth at a
# load of five on two cores: a busy machine alone does not turn every look into a call.
FRESH_SECONDS: Final = 2.0
# A stream that is silent for so long has ended, whatever its other end may think.
_SILENT_SECONDS: Final = 5.0
# Digests name for 5 s who must be asked for; after a longer gap nobody knows whom they would have named.
_GAP_SECONDS: Final = 4.5
# Before connecting again, at most: soon at first, since people wait and most losses are the restart of one peer. And at
# least a fifth of it, which spreads the edges that lost the same peer.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 5.0
_LEAST_SHARE: Final = 0.2

# Never the same twice in a process: what was learnt through an earlier subscription belongs to no era of a later one.
_eras = itertools.count(1)

_log = logging.getLogger(__name__)


class NoDigests(Exception):
    """Queue is of a version that makes no digests."""


class Subscription:
    """The newest digest of one event. `run` keeps it new until cancelled."""

    def __init__(self, event_id: int, open_digests: OpenDigests) -> None:
        self._request = pb.WatchDigestRequest(event_id=event_id)
        self._open = open_digests
        self._latest: pb.WatchDigestResponse | None = None
        # Of what is learnt from now on.
        self.era = next(_eras)
        self.view: LineView | None = None
        # Set by each digest; whoever waits for the next one clears it.
        self.arrived = asyncio.Event()
        # Set when the first attempt has come to something.
        self.settled = asyncio.Event()

    def fresh(self, now: float) -> LineView | None:
        """The newest digest, unless it is too old to speak of now."""
        view = self.view
        return view if view is not None and now - view.received <= FRESH_SECONDS else None

    async def run(self) -> None:
        """Receives digests, and connects again after a pause. Raises NoDigests."""
        pauses = _pauses()
        while True:
            before = self.view
            try:
                await self._receive()
            except aio.AioRpcError as error:
                self._note(error)
            except TimeoutError:
                _log.warning("digests have ceased", extra={"fields": {"event_id": self._request.event_id}})
            # There may be digests, but not now; whoever waited for the first one goes on without.
            self.settled.set()
            if self.view is not before:
                pauses = _pauses()
            await asyncio.sleep(next(pauses))

    def _note(self, error: aio.AioRpcError) -> None:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NoDigests from error
        fields = {"event_id": self._request.event_id, "code": error.code().name, "error": error.details()}
        _log.warning("lost the digests of a line", extra={"fields": fields})

    async def _receive(self) -> None:
        """Takes digests until the stream ends; a silent one ends, too, since its other end may be gone."""
        async with _cancelling(self._open(self._request)) as call:
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    digest = await call.read()
                if digest is aio.EOF:
                    return
                self._take(digest)

    def _take(self, digest: pb.WatchDigestResponse) -> None:
        if self._is_new_era(digest):
            self.era = next(_eras)
        self._latest = digest
        self.view = view_of(digest, asyncio.get_running_loop().time(), self.era)
        self.arrived.set()
        self.settled.set()

    def _is_new_era(self, digest: pb.WatchDigestResponse) -> bool:
        """Whether what was known does not hold any more. Both times are of one clock, that of Redis."""
        before = self._latest
        if before is None or digest.incarnation != before.incarnation:
            return True
        return digest.time.ToMicroseconds() - before.time.ToMicroseconds() > _GAP_SECONDS * 1_000_000


def _pauses() -> Iterator[float]:
    """Seconds before each attempt to connect again, while none succeeds."""
    most = _FIRST_PAUSE
    while True:
        yield most * random.uniform(_LEAST_SHARE, 1)  # noqa: S311 - spreads load
        most = min(most * 2, _LONGEST_PAUSE)


@asynccontextmanager
async def _cancelling(call: Any) -> AsyncIterator[Any]:
    try:
        yield call
    finally:
        call.cancel()
