"""Who ticks an event: Redlock over the lease nodes, with a fencing number that grows from holder to holder.

The lease saves the work of ticking one line twice. The bounds of a line do not rest on it: they are kept by the script
that calls people (docs/decisions/0040), and the number lets that script refuse a holder whose time is over.

A node backs a fence only if it is above all that it has backed. Two majorities share a node, so that no two holders
have the same fence. A new holder also goes above what any node that answers has seen, and above the fence that is
written in the line itself: so it has the larger one even where the shared node was emptied.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from services.common import metrics
from services.common.lua import Args, Keys, Script
from services.queue.admission.nodes import Node
from services.queue.line.store import line_key

# A killed holder is replaced within this time, and the retry of another process.
TTL: Final = timedelta(seconds=3)
# Two renewals may fail before the lease does.
_RENEW_SHARE: Final = 1 / 3
# Redlock's allowance for clocks that run at different speeds.
_DRIFT_SHARE, _DRIFT_SECONDS = 0.01, 0.002
# A look, a bid above what was seen, and two more against others that bid at the same time.
_ROUNDS: Final = 4
# A bid that every node refuses, telling what it has seen. Who only waits for a holder to die must not leave a fence on
# a node that has lost its memory: the holder could not have it back.
_LOOK: Final = 0

_LUA: Final = Path(__file__).with_name("lua")
_GRANT: Final = Script.load(_LUA / "grant.lua")
_RELEASE: Final = Script.load(_LUA / "release.lua")

Floors = Callable[[Collection[int]], Awaitable[Mapping[int, int]]]
"""The fences that are written in the lines of events."""

_log = logging.getLogger(__name__)


class Standing(StrEnum):
    """How this process stands to a lease."""

    HELD = "held"
    # Another process has it, or several want it at the same time.
    OTHER = "other"
    # No majority of the nodes has answered for a while: nobody can have it.
    UNFENCED = "unfenced"


@dataclass(slots=True)
class _Lease:
    """What this process knows of the lease of one event; times are of the loop's clock."""

    standing: Standing = Standing.OTHER
    fence: int = 0
    valid_until: float = 0.0
    # When it is to be renewed, or tried for again.
    due: float = 0.0
    # Since when no majority of the nodes answers.
    silent_since: float | None = None

    def hear(self, now: float, *, majority: bool) -> None:
        """Notes whether a majority has answered."""
        self.silent_since = None if majority else self.silent_since if self.silent_since is not None else now


@dataclass(frozen=True, slots=True)
class _Vote:
    """What the nodes said of one event."""

    answers: int
    granted: int
    # The highest fence that a node had backed before, among those that refused.
    highest: int
    # Nodes that back another holder, and how long the first of them still does.
    taken: int
    left: float

    @classmethod
    def of(cls, answers: Sequence[Any]) -> "_Vote":
        """The sum of answers of the grant script; a node on which it failed has no say."""
        said = [answer for answer in answers if not isinstance(answer, Exception)]
        taken = [left_ms / 1000 for _, _, left_ms in said if left_ms]
        return cls(
            answers=len(said),
            granted=sum(granted for granted, _, _ in said),
            highest=max((fence for granted, fence, _ in said if not granted), default=0),
            taken=len(taken),
            left=min(taken, default=0.0),
        )


class Leases:
    """The leases of one process, one for each event. All of them travel in one pipeline per node.

    Args:
        nodes: each votes; a majority decides.
        floors: see `Floors`.
        ttl: how long a lease outlives its last renewal.
        clock: seconds that never go back.
    """

    def __init__(
        self, nodes: Sequence[Node], floors: Floors, ttl: timedelta = TTL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nodes = nodes
        self._majority = len(nodes) // 2 + 1
        self._floors = floors
        self._ttl = ttl
        self._clock = clock
        self._holder = secrets.token_hex(8)
        self._leases: dict[int, _Lease] = {}
        self._unfenced = False
        self._is_open = True
        # A release must not overtake what is being taken.
        self._lock = asyncio.Lock()

    async def hold(self, event_ids: Collection[int]) -> dict[int, int | None]:
        """The events among these that this process ticks now, each with its fence.

        None instead of a fence: no majority of the nodes answers, and nobody needs one. Leases of other events are
        given back. Raises what `floors` raises.
        """
        async with self._lock:
            if not self._is_open:
                return {}
            await self._let_go(self._leases.keys() - set(event_ids))
            for event_id in event_ids:
                self._leases.setdefault(event_id, _Lease())
            await self._renew()
            await self._acquire()
            self._report()
            now = self._clock()
            return {
                event_id: lease.fence if lease.standing is Standing.HELD else None
                for event_id, lease in self._leases.items()
                if lease.standing is Standing.UNFENCED or (lease.standing is Standing.HELD and now < lease.valid_until)
            }

    def is_unfenced(self, event_id: int) -> bool:
        """Whether nobody can hold the lease of the event now, as far as this process knows."""
        lease = self._leases.get(event_id)
        return lease is not None and lease.standing is Standing.UNFENCED

    def drop(self, event_id: int) -> None:
        """Gives up a lease whose fence the line has refused: it belongs to another, or must be taken anew."""
        metrics.QUEUE_FENCED.inc()
        lease = self._leases.get(event_id, _Lease())
        fields = {"event_id": event_id, "fence": lease.fence}
        _log.warning("a late tick was refused: the line has a newer holder", extra={"fields": fields})
        lease.standing, lease.due = Standing.OTHER, self._clock()

    async def release(self) -> None:
        """Gives everything back, for good: another process goes on at once."""
        async with self._lock:
            self._is_open = False
            await self._let_go(list(self._leases))
            self._report()

    async def _let_go(self, event_ids: Collection[int]) -> None:
        held = [event_id for event_id in event_ids if self._leases[event_id].standing is Standing.HELD]
        for event_id in event_ids:
            del self._leases[event_id]
        await self._give_back(held)

    async def _give_back(self, event_ids: Sequence[int]) -> None:
        if event_ids:
            calls: list[tuple[Keys, Args]] = [(_keys(each), {"holder": self._holder}) for each in event_ids]
            await asyncio.gather(*(node.ask(_RELEASE, calls) for node in self._nodes))

    async def _renew(self) -> None:
        now = self._clock()
        due = {each: lease for each, lease in self._leases.items() if lease.standing is Standing.HELD}
        for lease in due.values():
            if lease.valid_until <= now:  # this process stood still: others had their chance
                lease.standing, lease.due = Standing.OTHER, now
        due = {each: lease for each, lease in due.items() if lease.standing is Standing.HELD and lease.due <= now}
        for event_id, vote in (await self._vote({each: lease.fence for each, lease in due.items()})).items():
            lease = due[event_id]
            lease.hear(now, majority=vote.answers >= self._majority)
            if vote.granted >= self._majority:
                self._keep(lease, now)
            elif vote.answers >= self._majority:
                lease.standing, lease.due = Standing.OTHER, now
                _log.warning("a lease was lost", extra={"fields": {"event_id": event_id, "fence": lease.fence}})
            # Else it is valid until its time is over, and asked for again by the next tick.

    async def _acquire(self) -> None:
        now = self._clock()
        wanted = {
            each: lease
            for each, lease in self._leases.items()
            if lease.standing is not Standing.HELD and lease.due <= now
        }
        if not wanted:
            return
        floors = await self._floors(wanted)
        bids = dict.fromkeys(wanted, _LOOK)
        partial: set[int] = set()
        for _ in range(_ROUNDS):
            began = self._clock()
            votes = await self._vote(bids)
            partial |= {each for each, vote in votes.items() if vote.granted}
            for event_id, vote in votes.items():
                self._decide(event_id, bids[event_id], vote, began)
            bids = {
                each: max(vote.highest, floors.get(each, 0)) + 1
                for each, vote in votes.items()
                if self._is_outbid(bids[each], vote)
            }
            if not bids:
                break
        await self._give_back([each for each in partial if wanted[each].standing is not Standing.HELD])

    async def _vote(self, bids: Mapping[int, int]) -> dict[int, _Vote]:
        if not bids:
            return {}
        ttl_ms = self._ttl // timedelta(milliseconds=1)
        calls: list[tuple[Keys, Args]] = [
            (_keys(event_id), {"holder": self._holder, "fence": fence, "ttl_ms": ttl_ms})
            for event_id, fence in bids.items()
        ]
        answers = await asyncio.gather(*(node.ask(_GRANT, calls) for node in self._nodes))
        said = [each for each in answers if each is not None]
        return {event_id: _Vote.of([each[at] for each in said]) for at, event_id in enumerate(bids)}

    def _is_outbid(self, fence: int, vote: _Vote) -> bool:
        """Whether a larger fence may win."""
        free = vote.answers - vote.taken
        return vote.highest >= fence and free >= self._majority

    def _decide(self, event_id: int, fence: int, vote: _Vote, began: float) -> None:
        lease = self._leases[event_id]
        lease.fence = fence
        lease.hear(began, majority=vote.answers >= self._majority)
        if vote.granted >= self._majority and vote.highest < fence:
            self._keep(lease, began)
            _log.info("a lease was taken", extra={"fields": {"event_id": event_id, "fence": fence}})
            return
        # One answer that is late, or one connection that takes its time, is no outage.
        is_outage = lease.silent_since is not None and began - lease.silent_since >= self._renew_after()
        lease.standing = Standing.UNFENCED if is_outage else Standing.OTHER
        # Several that failed together shall not fail together again.
        pause = min(vote.left, self._renew_after()) if vote.taken else 0.0
        lease.due = self._clock() + pause + random.uniform(0.1, 0.5) * self._renew_after()  # noqa: S311 - spreads load

    def _keep(self, lease: _Lease, began: float) -> None:
        ttl = self._ttl.total_seconds()
        lease.standing = Standing.HELD
        lease.valid_until = began + ttl * (1 - _DRIFT_SHARE) - _DRIFT_SECONDS
        lease.due = began + self._renew_after()

    def _renew_after(self) -> float:
        return self._ttl.total_seconds() * _RENEW_SHARE

    def _report(self) -> None:
        standings = [lease.standing for lease in self._leases.values()]
        for each in Standing:
            metrics.QUEUE_LEASES.labels(each).set(standings.count(each))
        unfenced = Standing.UNFENCED in standings
        if unfenced and not self._unfenced:
            _log.warning("no majority of the lease nodes answers: lines are ticked without a lease")
        if self._unfenced and standings and not unfenced:
            _log.info("a majority of the lease nodes answers again")
        self._unfenced = unfenced if standings else self._unfenced


def written_fences(redis: Redis) -> Floors:
    """The floors of leases: the fences that are written in the lines that `redis` keeps."""
    return partial(_read_fences, redis)


async def _read_fences(redis: Redis, event_ids: Collection[int]) -> dict[int, int]:
    async with redis.pipeline(transaction=False) as pipe:
        for event_id in event_ids:
            pipe.hget(line_key(event_id, "line"), "fence")
        fences = await pipe.execute()
    return {event_id: int(fence or 0) for event_id, fence in zip(event_ids, fences, strict=True)}


def _keys(event_id: int) -> Keys:
    return {"lease": line_key(event_id, "lease")}
