"""Joins by the batch: places that come back first, then new ones in order of arrival, then where they all stand."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from services.common import draw
from services.common.errors import Unavailable
from services.common.lua import Args, Script
from services.queue.line import replies
from services.queue.line.domain import LanePassInvalid, Policy, Sale
from services.queue.line.keys import line_keys
from services.queue.line.replies import Reading
from services.queue.line.times import span_ms, to_ms
from services.queue.line.transitions import JoinCommand, Joined, Proof

_LUA: Final = Path(__file__).with_name("lua")
_JOIN: Final = Script.load(_LUA / "join.lua")
_RESTORE: Final = Script.load(_LUA / "restore.lua")
_MOVE: Final = Script.load(_LUA / "move.lua")

# Joins in one run of a script: some milliseconds of Redis.
_CHUNK: Final = 256
# A place that comes back may have to be asked for with its score, then as a plain join. More is a line that changes
# under our hands.
_ROUNDS: Final = 4
# Outcomes after which there is more to do: it proves nothing here; repeat it with the score that was drawn.
_PLAIN, _DRAWN = "PLAIN", "DRAWN"
_LOST: Final = "the line was lost just now; join again"

ReadPlaces = Callable[[int, Sequence[int]], Awaitable[Reading | Exception]]
Outcome = str | Exception


class Joining:
    """The joins of all events. Not safe beside itself: places are given in the order of calls."""

    def __init__(self, redis: Redis, defaults: Policy, grace: timedelta, read: ReadPlaces) -> None:
        self._redis = redis
        self._defaults = defaults
        # How long nobody is called after a place came back to a line that was lost.
        self._grace = grace
        self._read = read
        # Keys of draws that were held. A script that has another one says so.
        self._draw_keys: dict[int, bytes] = {}

    async def join_many(self, event_id: int, commands: Sequence[JoinCommand]) -> list[Joined | Exception]:
        """The places of one event, in order; what fails fails alone."""
        attempt = _Attempt(commands)
        if any(each.lane for each in commands):
            attempt.check_lanes(await self._read(event_id, ()))
        for _ in range(_ROUNDS):
            await self._restore(event_id, attempt)
            await self._join(event_id, attempt)
            if not attempt.is_pending:
                break
        await self._move(event_id, attempt)
        return attempt.told(await self._read(event_id, [each.user_id for each in commands]))

    async def _restore(self, event_id: int, attempt: "_Attempt") -> None:
        key = self._draw_keys.get(event_id, b"")
        proofs = attempt.to_restore(key)
        if proofs:
            args: Args = {**_close(attempt.sale), "quiet_ms": span_ms(self._grace), "drawn_key": key}
            calls = [{**args, "proofs": chunk} for chunk in _chunks(proofs)]
            attempt.restored(dict(zip(proofs, await self._run(_RESTORE, event_id, calls), strict=True)))

    async def _join(self, event_id: int, attempt: "_Attempt") -> None:
        joins = attempt.to_join()
        if joins:
            opening: Args = {"open_ms": to_ms(attempt.sale.open_time), "default_mode": self._defaults.mode}
            calls = [{**opening, **_close(attempt.sale), "joins": chunk} for chunk in _chunks(joins)]
            attempt.joined(dict(zip(joins, await self._run(_JOIN, event_id, calls), strict=True)))

    async def _run(self, script: Script, event_id: int, chunks: Sequence[Args]) -> list[Outcome]:
        """Runs a script over its chunks, in order; answers the outcomes of their entries, one after another."""
        keys = line_keys(script, event_id)
        answers = await script.call_many(self._redis, [(keys, chunk) for chunk in chunks])
        outcomes: list[Outcome] = []
        for chunk, answer in zip(chunks, answers, strict=True):
            told = replies.settled(answer, replies.accepted)
            if isinstance(told, Exception):
                outcomes.extend([told] * len(chunk[script.header.args[-1]]))  # type: ignore[arg-type] # the list
                continue
            if told[0]:
                self._draw_keys[event_id] = told[0]
            outcomes.extend(outcome.decode() for outcome in told[1:])
        return outcomes

    async def _move(self, event_id: int, attempt: "_Attempt") -> None:
        moves = attempt.to_move()
        calls = [(line_keys(_MOVE, event_id), {"user_id": user_id, "lane": lane}) for user_id, lane in moves.values()]
        answers = await _MOVE.call_many(self._redis, calls)
        for index, answer in zip(moves, answers, strict=True):
            moved = replies.settled(answer, replies.accepted)
            if isinstance(moved, Exception):
                attempt.outcomes[index] = moved


def _close(sale: Sale) -> Args:
    return {"close_ms": to_ms(sale.close_time)}


def _chunks(entries: Mapping[int, str]) -> list[list[str]]:
    texts = list(entries.values())
    return [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]


class _Attempt:
    """How far the joins of a batch are."""

    def __init__(self, commands: Sequence[JoinCommand]) -> None:
        self._commands = commands
        # The newest knowledge of the sale.
        self.sale = commands[-1].sale
        self._proofs = {index: each.proof for index, each in enumerate(commands) if each.proof}
        # None: to be joined or restored yet.
        self.outcomes: list[Outcome | None] = [None] * len(commands)

    @property
    def is_pending(self) -> bool:
        return None in self.outcomes

    def check_lanes(self, reading: Reading | Exception) -> None:
        """Refuses passes of lanes that are not in use."""
        if isinstance(reading, Exception):
            self.outcomes = [reading] * len(self._commands)
            return
        in_use = {lane.number for lane in reading[0].lanes}
        for index, command in enumerate(self._commands):
            if command.lane and command.lane not in in_use:
                self.outcomes[index] = LanePassInvalid()

    def to_restore(self, draw_key: bytes) -> dict[int, str]:
        """Proofs by index, as restore takes them."""
        entries = {}
        for index, proof in self._proofs.items():
            if self.outcomes[index] is None:
                user_id = self._commands[index].user_id
                drawn = proof.score == 0 and draw_key != b""
                score = draw.score(draw_key, user_id) if drawn else proof.score
                lane = "" if proof.lane is None else proof.lane
                entries[index] = f"{user_id}:{score}:{proof.join_us}:{lane}:{drawn:d}"
        return entries

    def restored(self, outcomes: Mapping[int, Outcome]) -> None:
        for index, outcome in outcomes.items():
            if outcome == _PLAIN:
                del self._proofs[index]
            elif outcome != _DRAWN:
                self.outcomes[index] = _judged(outcome)

    def to_join(self) -> dict[int, str]:
        """Joins by index, as join takes them."""
        return {
            index: f"{command.user_id}:{command.lane or 0}"
            for index, command in enumerate(self._commands)
            if self.outcomes[index] is None and index not in self._proofs
        }

    def joined(self, outcomes: Mapping[int, Outcome]) -> None:
        for index, outcome in outcomes.items():
            if outcome == _DRAWN:
                self._proofs[index] = Proof(score=0, join_us=0, lane=None)
            else:
                self.outcomes[index] = _judged(outcome)

    def to_move(self) -> dict[int, tuple[int, int]]:
        """User and lane, by index, of passes of people who may stand elsewhere."""
        return {
            index: (command.user_id, command.lane)
            for index, command in enumerate(self._commands)
            if command.lane is not None and isinstance(self.outcomes[index], str)
        }

    def told(self, reading: Reading | Exception) -> list[Joined | Exception]:
        """Where everyone stands."""
        if isinstance(reading, Exception):
            return [each if isinstance(each, Exception) else reading for each in self.outcomes]
        line, standings = reading
        answers: list[Joined | Exception] = []
        for command, outcome in zip(self._commands, self.outcomes, strict=True):
            if isinstance(outcome, Exception):
                answers.append(outcome)
                continue
            standing = standings[command.user_id]
            if outcome is None or standing is None:
                answers.append(Unavailable(_LOST))
            else:
                answers.append(Joined(outcome, line, standing))
        return answers


def _judged(outcome: Outcome) -> Outcome:
    """A place that stands, or the refusal that a script names."""
    refusals = replies.REFUSALS
    return refusals[outcome]() if isinstance(outcome, str) and outcome in refusals else outcome
