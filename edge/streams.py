"""Server-streaming RPCs as server-sent events.

The stream begins with `retry: 2000`. Each message is an event of the default type: `id:` counts from 1 within the
stream, `data:` is one line of JSON. There is no resuming: every stream begins with the state as it is. A comment line
keeps quiet connections open, every 15 s. Before the first message an error is an ordinary problem response; after it,
an event of type `problem` whose data is the problem document, and the end. A stream that just ends was complete, or
the edge is being restarted: a client that has seen no final state connects again. A client that does not read for a
minute is hung up on. One account has eight streams of a route through one process; the oldest ends for a ninth.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web
from google.protobuf.message import Message

from edge import problems
from edge.transcode.dump import DumpMessage, to_json
from services.common import metrics
from services.common.caller import caller_var
from services.common.errors import Unavailable

MEDIA_TYPE: Final = "text/event-stream"

_HEADERS: Final = {
    "Content-Type": MEDIA_TYPE,
    "Cache-Control": "no-store",
    # Proxies that collect a response before they pass it on would defeat the purpose.
    "X-Accel-Buffering": "no",
}
_BEGINNING: Final = b"retry: 2000\n\n"
_HEARTBEAT: Final = b": still here\n\n"
# Below the idle time-outs of proxies and load balancers, which begin at 30 s.
HEARTBEAT_SECONDS: Final = 15.0
# Longer than a phone without reception needs to be back; then what it was sent is old, and the connection dead.
UNREAD_SECONDS: Final = 60.0
# Of one account and route, in this process: more than anybody has tabs and devices. Without a bound one account could
# hold the memory and the time of a thousand people.
MOST_STREAMS: Final = 8
# How soon a client that has gone is noticed.
_SWEEP_SECONDS: Final = 1.0
# Streams that are served without a break. An event costs about 10 µs, most of it the kernel's, so that other requests
# wait for 3 ms at most.
_SLICE: Final = 256

T = TypeVar("T")


def in_slices(items: Iterable[T]) -> Iterator[Sequence[T]]:
    """The items, some at a time: between two slices others get their turn."""
    iterator = iter(items)
    while taken := list(islice(iterator, _SLICE)):
        yield taken


class EventStream(web.StreamResponse):
    """One client that follows something. Ended from outside by `end`."""

    def __init__(self, request: web.Request, scope: asyncio.Timeout) -> None:
        super().__init__(headers=_HEADERS)
        self._request = request
        self._scope = scope
        self._sent = 0
        self._last_write = asyncio.get_running_loop().time()
        self._in_chunks = False
        self._transport: asyncio.Transport | None = None
        # What was unread when the client was last seen reading, and when that was; no time while nothing is unread.
        self._unread = 0
        self._unread_since: float | None = None

    async def begin(self) -> None:
        """Sends the headers, unless they have been sent."""
        if not self.prepared:
            await self.prepare(self._request)
            self._in_chunks = self.headers.get("Transfer-Encoding") == "chunked"
            self._transport = self._request.transport
            # Sent, and a fifth of what a quiet stream keeps in memory.
            self.headers.clear()
            await self._write(_BEGINNING)

    async def send(self, data: bytes, event: str = "") -> None:
        """Sends one event; waits while the client does not read."""
        await self.begin()
        self._sent += 1
        kind = b"event: %s\n" % event.encode() if event else b""
        await self._write(b"%sid: %d\ndata: %s\n\n" % (kind, self._sent, data))

    def offer(self, data: bytes, now: float) -> bool:
        """Sends one event at once, without a step of aiohttp between; only after `begin`, and not beside `send`.

        False, and nothing is sent, while the client has not read what it was sent before, or when it is gone.
        """
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() or transport.is_closing():
            return False
        self._sent += 1
        event = b"id: %d\ndata: %b\n\n" % (self._sent, data)
        transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._in_chunks else event)
        self._last_write = now
        self._unread_since = None
        return True

    async def _write(self, chunk: bytes) -> None:
        self._last_write = asyncio.get_running_loop().time()
        await self.write(chunk)

    async def look_after(self, now: float) -> None:
        """Ends the stream when its client has gone or does not read, and keeps a quiet connection open."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.end()
        elif unread := transport.get_write_buffer_size():
            # It needs no sign of life, and must not make the others wait.
            if self._is_stuck(unread, now):
                self.hang_up()
        else:
            self._unread_since = None
            if now - self._last_write >= HEARTBEAT_SECONDS:
                await self.begin()
                await self._write(_HEARTBEAT)

    def _is_stuck(self, unread: int, now: float) -> bool:
        """Whether nothing was read for so long that nothing will be."""
        if self._unread_since is None or unread < self._unread:
            self._unread_since = now
        self._unread = unread
        return now - self._unread_since >= UNREAD_SECONDS

    def hang_up(self) -> None:
        """Ends the stream, and with it the connection if something is unread: nobody waits until that has been read."""
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        self.end()

    def end(self) -> None:
        """Makes the handler of this stream finish it."""
        self._scope.reschedule(asyncio.get_running_loop().time())


# Sends the events of one stream until nothing more will come.
Follow = Callable[[EventStream], Awaitable[None]]


class Streams:
    """All open streams of this process. One loop looks after all of them, so that a quiet stream costs no timer."""

    def __init__(self, draining: asyncio.Event) -> None:
        self._draining = draining
        self._open: set[EventStream] = set()
        # By account and route, the oldest first.
        self._of: dict[tuple[int, str], dict[EventStream, None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, request: web.Request, follow: Follow, route: str) -> web.StreamResponse:
        """Keeps a stream open while `follow` sends its events. Raises what that fails with before the first one."""
        scope = asyncio.timeout(None)
        stream = EventStream(request, scope)
        _count(route, 1)
        try:
            async with scope:
                with self._among_ones_own(stream, route):
                    await self._follow(stream, follow, route)
        except TimeoutError:
            if not scope.expired():
                raise
            if not stream.prepared:
                raise Unavailable("the stream was ended") from None
        finally:
            _count(route, -1)
        return stream

    @contextlib.contextmanager
    def _among_ones_own(self, stream: EventStream, route: str) -> Iterator[None]:
        """Counts a stream among those of its account, and ends the oldest of too many."""
        caller = caller_var.get()
        if caller is None:
            yield
            return
        key = caller.user_id, route
        own = self._of.setdefault(key, {})
        own[stream] = None
        if len(own) > MOST_STREAMS:
            oldest = next(iter(own))
            del own[oldest]
            oldest.hang_up()
        try:
            yield
        finally:
            own.pop(stream, None)
            if not own:
                self._of.pop(key, None)

    async def _follow(self, stream: EventStream, follow: Follow, route: str) -> None:
        self._open.add(stream)
        if self._draining.is_set():
            stream.end()
        try:
            await follow(stream)
        except ConnectionError:
            # The client has gone; there is nobody to tell.
            pass
        except Exception as error:
            if not stream.prepared:
                raise
            await _tell(stream, error, route)
        finally:
            self._open.discard(stream)

    async def sweep(self) -> None:
        """Looks after the open streams until cancelled: heartbeats, clients that have gone, the end of the process."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._draining.wait()
            if self._draining.is_set():
                for stream in list(self._open):
                    stream.end()
                await asyncio.sleep(_SWEEP_SECONDS)
            for streams in in_slices(list(self._open)):
                await _look_after(streams)
                await asyncio.sleep(0)


def relay(call: AsyncIterable[Message], dump: DumpMessage) -> Follow:
    """What sends every message of a call as an event."""

    async def follow(stream: EventStream) -> None:
        async with _cancelling(call) as messages:
            async for message in messages:
                await stream.send(to_json(dump(message)))
        await stream.begin()

    return follow


async def _look_after(streams: Iterable[EventStream]) -> None:
    now = asyncio.get_running_loop().time()
    for stream in streams:
        with contextlib.suppress(ConnectionError):
            await stream.look_after(now)


async def _tell(stream: EventStream, error: Exception, route: str) -> None:
    """Ends a stream that has begun with a `problem` event."""
    problem = problems.describe(error)
    problems.count(problem)
    problems.report(error, problem, route)
    with contextlib.suppress(ConnectionError):
        await stream.send(orjson.dumps(problems.document(problem)), "problem")


@contextlib.asynccontextmanager
async def _cancelling(call: Any) -> AsyncIterator[AsyncIterator[Message]]:
    """The messages of a call that is cancelled when nobody follows it any more."""
    try:
        yield aiter(call)
    finally:
        call.cancel()


def _count(route: str, change: int) -> None:
    """Counts an open stream, which is no longer a request being answered."""
    metrics.HTTP_STREAMS_OPEN.labels(route).inc(change)
    metrics.HTTP_IN_FLIGHT.dec(change)
