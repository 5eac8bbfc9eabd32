"""Concurrent calls that arrive together travel together.

No timer: what has arrived when a batch returns goes next. An idle caller waits for nobody, a busy moment makes large
batches by itself.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from services.common import metrics
from services.common.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")

# Beyond this many batches waiting, another item would only wait for its deadline.
_BATCHES_WAITING: Final = 32


class Coalescer(Generic[T, R]):
    """Turns many single calls into few calls of `send`, which answers each item in order, with a result or an error.

    Items are sent in their order of arrival; with more than one batch in flight, a later one may be carried out first.
    `send` runs in an empty context: a batch is nobody's request, so what an item needs (its caller, its traceparent)
    must be in the item. When `send` raises, every item of its batch raises that.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        max_items: int = 256,
        max_in_flight: int = 2,
        *,
        name: str = "default",
    ) -> None:
        self._send = send
        self._max_items = max_items
        self._max_in_flight = max_in_flight
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._sizes = metrics.COALESCED_BATCH_SIZE.labels(name)
        self._refused = metrics.COALESCER_REFUSED.labels(name)

    async def submit(self, item: T) -> R:
        """The answer for `item`. Raises what `send` said for it, or Unavailable when too many are waiting.

        Cancelled before its batch left, the item is not sent; after that, it is sent and its answer dropped.
        """
        if len(self._waiting) >= self._max_items * _BATCHES_WAITING:
            self._refused.inc()
            raise Unavailable("too many requests are waiting")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._scheduled and len(self._in_flight) < self._max_in_flight:
            self._scheduled = True
            # At the end of this turn of the loop, so that what arrived in the same turn travels along.
            loop.call_soon(self._dispatch, context=contextvars.Context())
        return await answer

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            batch = self._take()
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch), context=contextvars.Context())
                self._in_flight.add(task)
                task.add_done_callback(self._returned)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((item, answer))
        return batch

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._dispatch()

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        self._sizes.observe(len(batch))
        answers = [answer for _, answer in batch]
        try:
            results = await self._send([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")  # noqa: TRY301 - as any failure
        except asyncio.CancelledError:
            _settle(answers, [Unavailable("shutting down")] * len(batch))
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the callers
            _settle(answers, [error] * len(batch))
        else:
            _settle(answers, results)


def _settle(answers: Sequence[asyncio.Future[R]], results: Sequence[R | Exception]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if answer.done():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
