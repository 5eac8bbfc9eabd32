"""Reads a line in short from Redis: scripts of a cost that hardly depends on how many wait."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common.lua import Args, Script
from services.common.place_in_digest import FRONT, SAMPLES, LaneScores
from services.queue.digest.snapshot import LaneSnapshot, LineSnapshot, Sample
from services.queue.line.store import line_key

_LUA: Final = Path(__file__).with_name("lua")
_DIGEST: Final = Script.load(_LUA / "digest.lua")
_DIGEST_LANE: Final = Script.load(_LUA / "digest_lane.lua")

_LANES: Final = 4
# An edge that hears nothing for so long has lost its stream anyway, and asks for everything again.
_TOLD: Final = timedelta(seconds=5)
_KEPT: Final = timedelta(seconds=10)
# Beyond that the oldest are not told: their owners hear of it when they are called, or ask.
_MOST_CHANGED: Final = 10_000
# Ten minutes: the longest stay. Of 20 bytes each.
_SAMPLE_EVERY: Final = timedelta(seconds=5)
_SAMPLES_KEPT: Final = 120
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class DigestStore:
    """Lines in short. Raises redis.exceptions.RedisError when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def snapshot(self, event_id: int) -> LineSnapshot:
        """The line now. Lane by lane, so that Redis is never busy for longer than one of them takes."""
        answer = await _DIGEST.call(self._redis, _line_keys(event_id), _RULES)
        lanes = {lane: await self._lane(event_id, lane) for lane in range(_LANES)}
        return _line(answer, lanes)

    async def _lane(self, event_id: int, lane: int) -> LaneSnapshot:
        keys = {"lane": line_key(event_id, f"users:{lane}" if lane else "users"), "line": line_key(event_id, "line")}
        args: Args = {"watermark": f"watermark:{lane}", "front_size": FRONT, "sample_count": SAMPLES}
        return _lane_snapshot(await _DIGEST_LANE.call(self._redis, keys, args))


_RULES: Final[Args] = {
    "recent_ms": _TOLD // timedelta(milliseconds=1),
    "forget_ms": _KEPT // timedelta(milliseconds=1),
    "max_changed": _MOST_CHANGED,
    "sample_ms": _SAMPLE_EVERY // timedelta(milliseconds=1),
    "max_samples": _SAMPLES_KEPT,
}


def _line_keys(event_id: int) -> dict[str, bytes]:
    return {name: line_key(event_id, name) for name in _DIGEST.header.keys}


def _lane_snapshot(answer: list[Any]) -> LaneSnapshot:
    waiting, watermark, front, step, samples = answer
    scores = _numbers(samples)
    # All but the last one are evenly spaced; the last one ends the lane.
    positions = [FRONT + step * number for number in range(1, len(scores))] + [waiting] * bool(scores)
    return LaneSnapshot(LaneScores(waiting, _numbers(front), scores, positions), int(watermark))


def _line(answer: list[Any], lanes: Mapping[int, LaneSnapshot]) -> LineSnapshot:
    now_ms, figures, inside, missed, entrants, changed, stays = answer
    built, restoring_until_ms, rate, called, sold_out, seats_left, seats_total, held_ms, key, entered = figures
    return LineSnapshot(
        now=_EPOCH + timedelta(milliseconds=now_ms),
        incarnation=int(built or 0),
        restoring=not built or int(restoring_until_ms or 0) > now_ms,
        lanes=lanes,
        missed=missed,
        entrants=entrants,
        entered=int(entered or 0),
        # It is there some moments before everyone has a place.
        draw_key=key if held_ms else b"",
        draw_held=bool(held_ms),
        sold_out=sold_out == b"1",
        seats_left=int(seats_left) if seats_left else None,
        seats_total=int(seats_total) if seats_total else None,
        called=int(called or 0),
        inside=inside,
        observed_rate=float(rate) if rate else None,
        stays=[_sample(entry) for entry in reversed(stays.split(b","))] if stays else [],
        changed=_numbers(changed),
    )


def _numbers(text: bytes) -> list[int]:
    return list(map(int, text.split(b","))) if text else []


def _sample(entry: bytes) -> Sample:
    now_ms, called, inside = map(int, entry.split(b":"))
    return Sample(now_ms / 1_000, called, inside)
