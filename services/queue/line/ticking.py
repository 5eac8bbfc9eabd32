"""Ticks of admission: what has run out gives its slot back, then those are called whom the policy allows."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common.lua import Args, Script
from services.queue.failures import Failures
from services.queue.line import replies
from services.queue.line.domain import Policy, Sale
from services.queue.line.keys import line_keys
from services.queue.line.times import span_ms, to_ms
from services.queue.line.transitions import MAX_BATCH, Lapsed, Tick

_LUA: Final = Path(__file__).with_name("lua")
_PROLONG: Final = Script.load(_LUA / "prolong.lua")
_LAPSE: Final = Script.load(_LUA / "lapse.lua")
_ADMIT: Final = Script.load(_LUA / "admit.lua")
_OBSERVE: Final = Script.load(_LUA / "observe.lua")


class Ticking:
    """The ticks of all events. Each of their steps is atomic, and safe beside other loops."""

    def __init__(self, redis: Redis, defaults: Policy, log_patience: timedelta) -> None:
        self._redis = redis
        self._defaults = defaults
        # How old a fact may be that the log does not have: then nobody is called.
        self._log_patience = log_patience
        self._unobserved = Failures("rate")

    async def admit_many(
        self, sales: Mapping[int, Sale], fences: Mapping[int, int], paces: Mapping[int, float]
    ) -> dict[int, Tick | Exception]:
        """One tick for each event, in four pipelines; an event that fails has its error."""
        lapsed = await self._lapse(await self._prolong(sales))
        calls = [
            (line_keys(_ADMIT, each), self._admit_args(sale, fences.get(each, ""), paces.get(each, 1.0)))
            for each, sale in sales.items()
        ]
        answers = dict(zip(sales, await _ADMIT.call_many(self._redis, calls), strict=True))
        ticks = {event_id: _tick(answer, lapsed[event_id]) for event_id, answer in answers.items()}
        await self._observe({event_id: tick for event_id, tick in ticks.items() if isinstance(tick, Tick)})
        return ticks

    async def _prolong(self, sales: Mapping[int, Sale]) -> dict[int, int | Exception]:
        args: Args = {
            "default_mode": self._defaults.mode,
            "default_claim_ms": span_ms(self._defaults.claim_window),
            "default_admission_ms": span_ms(self._defaults.admission),
            "max_batch": MAX_BATCH,
            "patience_ms": span_ms(self._log_patience),
        }
        calls = [
            (line_keys(_PROLONG, each), {**args, "close_ms": to_ms(sale.close_time)}) for each, sale in sales.items()
        ]
        answers = await _PROLONG.call_many(self._redis, calls)
        return {each: replies.settled(answer, int) for each, answer in zip(sales, answers, strict=True)}

    async def _lapse(self, prolonged: Mapping[int, int | Exception]) -> dict[int, Lapsed | Exception]:
        args: Args = {"default_claim_ms": span_ms(self._defaults.claim_window), "max_batch": MAX_BATCH}
        # Where it is not known whether time runs out, it does not.
        counts = {event_id: count for event_id, count in prolonged.items() if not isinstance(count, Exception)}
        answers = await _LAPSE.call_many(self._redis, [(line_keys(_LAPSE, event_id), args) for event_id in counts])
        lapsed = {
            event_id: replies.settled(answer, partial(replies.lapsed, count))
            for (event_id, count), answer in zip(counts.items(), answers, strict=True)
        }
        failed = {event_id: error for event_id, error in prolonged.items() if isinstance(error, Exception)}
        return {**lapsed, **failed}

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
            "patience_ms": span_ms(self._log_patience),
        }

    async def _observe(self, ticks: Mapping[int, Tick]) -> None:
        rate: Args = {"default_rate": self._defaults.rate_per_second}
        calls = [
            (line_keys(_OBSERVE, event_id), {**rate, "calling": int(tick.calling), "waiting": tick.waiting})
            for event_id, tick in ticks.items()
        ]
        answers = await _OBSERVE.call_many(self._redis, calls)
        # Who was called is called, and has to be told, whatever becomes of the rate.
        self._unobserved.without(dict(zip(ticks, answers, strict=True)))


def _tick(answer: Any, lapsed: Lapsed | Exception) -> Tick | Exception:
    if isinstance(lapsed, Exception):
        return lapsed
    return replies.settled(answer, partial(replies.tick, lapsed=lapsed))
