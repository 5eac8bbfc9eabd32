"""Ticks of admission: what has run out gives its slot back, then those are called whom the policy allows."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common.lua import Args, Script
from services.queue.line import replies
from services.queue.line.domain import Policy, Sale
from services.queue.line.keys import line_keys
from services.queue.line.times import span_ms, to_ms
from services.queue.line.transitions import MAX_BATCH, Lapsed, Tick

_LUA: Final = Path(__file__).with_name("lua")
_LAPSE: Final = Script.load(_LUA / "lapse.lua")
_ADMIT: Final = Script.load(_LUA / "admit.lua")
_OBSERVE: Final = Script.load(_LUA / "observe.lua")


class Ticking:
    """The ticks of all events. Each of their steps is atomic, and safe beside other loops."""

    def __init__(self, redis: Redis, defaults: Policy) -> None:
        self._redis = redis
        self._defaults = defaults

    async def admit_many(
        self, sales: Mapping[int, Sale], fences: Mapping[int, int], paces: Mapping[int, float]
    ) -> dict[int, Tick | Exception]:
        """One tick for each event, in three pipelines; an event that fails has its error."""
        lapsed = await self._lapse(sales)
        calls = [
            (line_keys(_ADMIT, each), self._admit_args(sale, fences.get(each, ""), paces.get(each, 1.0)))
            for each, sale in sales.items()
        ]
        answers = dict(zip(sales, await _ADMIT.call_many(self._redis, calls), strict=True))
        ticks = {event_id: _tick(answer, lapsed[event_id]) for event_id, answer in answers.items()}
        await self._observe({event_id: tick for event_id, tick in ticks.items() if isinstance(tick, Tick)})
        return ticks

    async def _lapse(self, sales: Mapping[int, Sale]) -> dict[int, Lapsed | Exception]:
        args: Args = {
            "default_mode": self._defaults.mode,
            "default_claim_ms": span_ms(self._defaults.claim_window),
            "max_batch": MAX_BATCH,
        }
        calls = [
            (line_keys(_LAPSE, each), {**args, "close_ms": to_ms(sale.close_time)}) for each, sale in sales.items()
        ]
        answers = await _LAPSE.call_many(self._redis, calls)
        return {each: replies.settled(answer, replies.lapsed) for each, answer in zip(sales, answers, strict=True)}

    def _admit_args(self, sale: Sale, fence: int | str, pace: float) -> Args:
        return {
            "open_ms": to_ms(sale.open_time),
            "close_ms": to_ms(sale.close_time),
            "default_mode": self._defaults.mode,
            "default_rate": self._defaults.rate_per_second,
            "default_cap": self._defaults.inside_cap,
            "default_claim_ms": span_ms(self._defaults.claim_window),
            "max_batch": MAX_BATCH,
            "fence": fence,
            "pace": pace,
        }

    async def _observe(self, ticks: Mapping[int, Tick]) -> None:
        rate: Args = {"default_rate": self._defaults.rate_per_second}
        calls = [
            (line_keys(_OBSERVE, event_id), {**rate, "calling": int(tick.calling), "waiting": tick.waiting})
            for event_id, tick in ticks.items()
        ]
        for answer in await _OBSERVE.call_many(self._redis, calls):
            replies.value(answer)


def _tick(answer: Any, lapsed: Lapsed | Exception) -> Tick | Exception:
    if isinstance(lapsed, Exception):
        return lapsed
    return replies.settled(answer, partial(replies.tick, lapsed=lapsed))
