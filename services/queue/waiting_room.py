"""What can be done in a waiting room, one method for each wish of a buyer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from services.common import metrics
from services.common.errors import Unavailable
from services.common.tokens import AdmissionToken, KeyRing
from services.queue.admission.publisher import FactPublisher
from services.queue.catalog import EventCatalog
from services.queue.digest.foresight import Foresight
from services.queue.failures import Failures
from services.queue.line.domain import (
    EventNotFound,
    Expect,
    Line,
    NotBuilt,
    Place,
    PlaceNotFound,
    PlaceState,
    Sale,
    Standing,
    tell,
    unforeseen,
)
from services.queue.line.store import LineStore, to_ms
from services.queue.line.transitions import JoinCommand, Joined, Proof
from services.queue.proofs.admission import token_id
from services.queue.proofs.lane_pass import LanePass
from services.queue.proofs.place import SignedPlace
from services.queue.watch import PlaceWatch

T = TypeVar("T")


class Rebuilder(Protocol):
    """Brings lines (back) to life."""

    async def ensure(self, event_id: int) -> None:
        """Returns when the line is there. Raises what a caller can be told when it cannot be now."""


class JoinWish(NamedTuple):
    """Who wants to join what, and what was verified of it: a signed place, and the lane of a pass."""

    event_id: int
    user_id: int
    proof: Proof | None = None
    lane: int | None = None


class JoinOutcome(NamedTuple):
    """A place, the proof of it, and whether it stood before."""

    place: Place
    signed_place: str
    already_joined: bool


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """An admitted place and the token that proves it to inventory."""

    place: Place
    admission_token: str
    admission_expire_time: datetime


class WaitingRoom:
    """The lines of all events, as people use them."""

    def __init__(
        self,
        store: LineStore,
        catalog: EventCatalog,
        rebuilder: Rebuilder,
        publisher: FactPublisher,
        *,
        place_keys: KeyRing,
        admission_keys: KeyRing,
        foresight: Foresight,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rebuilder = rebuilder
        self._publisher = publisher
        self._foresight = foresight
        self._place_keys = place_keys
        self._admission_keys = admission_keys
        self._failures = Failures("watchers")
        self.watchers = PlaceWatch(self.places)

    def wish(self, event_id: int, user_id: int, signed_place: str = "", lane_pass: str = "") -> JoinWish:
        """What somebody who joins has shown. Raises PlaceInvalid, LanePassInvalid."""
        proof = lane = None
        if signed_place:
            place = SignedPlace.decode(self._place_keys, signed_place)
            place.check_bearer(user_id, event_id)
            proof = Proof(place.score, place.join_us, place.lane)
        if lane_pass:
            allowed = LanePass.decode(self._place_keys, lane_pass)
            allowed.check_bearer(user_id, event_id)
            lane = allowed.lane
        return JoinWish(event_id, user_id, proof, lane)

    async def join(self, wish: JoinWish) -> JoinOutcome:
        """As `join_many`, of one; raises what went wrong."""
        (outcome,) = await self.join_many([wish])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def join_many(self, wishes: Sequence[JoinWish]) -> list[JoinOutcome | Exception]:
        """Takes, finds or restores places, in order, each with its own outcome.

        Outcomes that are errors: EventNotFound, SaleClosed, SoldOut, LanePassInvalid (the lane is not in use), Drawing,
        Unavailable (Redis was emptied meanwhile), or whatever keeps a line from being built.
        """
        sales = await self._sales({wish.event_id for wish in wishes})
        joined = await self._join_built(wishes, sales)
        unbuilt = {wish.event_id for wish, each in zip(wishes, joined, strict=True) if isinstance(each, NotBuilt)}
        if unbuilt:
            failures = await self._build(unbuilt)
            again = [index for index, each in enumerate(joined) if isinstance(each, NotBuilt)]
            repeated = await self._join_built([wishes[index] for index in again], {**sales, **failures})
            for index, outcome in zip(again, repeated, strict=True):
                joined[index] = outcome
        for name, count in Counter(each.outcome for each in joined if isinstance(each, Joined)).items():
            metrics.QUEUE_JOINS.labels(name).inc(count)
            metrics.QUEUE_RESTORED.labels("owner").inc(count if name == "restored" else 0)
        expects = await self._foresight.expect([each for each, sale in sales.items() if isinstance(sale, Sale)])
        return [
            self._outcome(wish, sales[wish.event_id], each, expects.get(wish.event_id, unforeseen))
            for wish, each in zip(wishes, joined, strict=True)
        ]

    async def _sales(self, events: Iterable[int]) -> dict[int, Sale | BaseException]:
        wanted = list(events)
        answers = await asyncio.gather(*map(self._catalog.sale, wanted), return_exceptions=True)
        return dict(zip(wanted, answers, strict=True))

    async def _join_built(
        self, wishes: Sequence[JoinWish], sales: Mapping[int, Sale | BaseException]
    ) -> list[Joined | Exception]:
        """Joins of the lines of these sales; those of the others fail as they did."""
        commands = [
            JoinCommand(wish.event_id, wish.user_id, sale, wish.proof, wish.lane)
            for wish in wishes
            if isinstance(sale := sales[wish.event_id], Sale)
        ]
        joined = iter(await self._store.join_many(commands) if commands else ())
        answers = (sales[wish.event_id] for wish in wishes)
        return [next(joined) if isinstance(answer, Sale) else _failure(answer) for answer in answers]

    async def _build(self, events: Iterable[int]) -> dict[int, BaseException]:
        """Has lines built; answers why some cannot be, by event."""
        wanted = list(events)
        answers = await asyncio.gather(*map(self._rebuilder.ensure, wanted), return_exceptions=True)
        failures = {each: answer for each, answer in zip(wanted, answers, strict=True) if answer is not None}
        # What was announced lately may have been lost with the line.
        await asyncio.gather(
            *(self._store.upkeep.activate(event_id) for event_id in wanted if event_id not in failures)
        )
        return failures

    async def _when_built(self, event_id: int, step: Callable[[], Awaitable[T]]) -> T:
        """Does it, after the line was built if it is not there. Raises EventNotFound: there is nothing to build."""
        try:
            return await step()
        except NotBuilt:
            await self._catalog.sale(event_id)
            for failure in (await self._build([event_id])).values():
                raise failure from None
            return await step()

    def _outcome(
        self, wish: JoinWish, sale: Sale | BaseException, joined: Joined | Exception, expect: Expect
    ) -> JoinOutcome | Exception:
        if isinstance(joined, Exception) or not isinstance(sale, Sale):
            return joined if isinstance(joined, Exception) else _failure(sale)
        standing = joined.standing
        join_us = standing.join_us or (wish.proof.join_us if wish.proof else 0)
        proof = SignedPlace(wish.user_id, wish.event_id, standing.lane, join_us, standing.score)
        place = tell(standing, joined.line, sale, expect)
        return JoinOutcome(place, proof.encode(self._place_keys), not joined.fresh)

    async def _keep_going(self, event_id: int, line: Line, standings: Iterable[Standing | None], sale: Sale) -> None:
        """Has the line ticked while somebody with a live place looks.

        Redis may have been emptied after a join was announced: with those who have come back since, and perhaps nobody
        who joins later, the line would stand still. What was announced lately costs nothing.
        """
        if line.now < sale.close_time and any(each and not each.state.is_final for each in standings):
            await self._store.upkeep.announce(event_id)

    async def place(self, event_id: int, user_id: int) -> Place:
        """One person's place now. Raises EventNotFound, PlaceNotFound, and what keeps the line from being built."""
        return (await self._look(event_id, user_id))[1]

    async def _look(self, event_id: int, user_id: int) -> tuple[Line, Place]:
        sale = await self._catalog.sale(event_id)
        line, standing = await self._when_built(event_id, lambda: self._store.read(event_id, user_id))
        if standing is None:
            raise PlaceNotFound
        await self._keep_going(event_id, line, [standing], sale)
        expects = await self._foresight.expect([event_id])
        return line, tell(standing, line, sale, expects[event_id])

    async def places(self, wanted: Mapping[int, Sequence[int]]) -> dict[int, dict[int, Place | None]]:
        """Places by event and user, read in one pipeline; None for who has none, also where the event is no more.

        An event that cannot be told about now is absent.
        """
        answers = await self._sales(wanted)
        sales = {event_id: answer for event_id, answer in answers.items() if isinstance(answer, Sale)}
        told: dict[int, dict[int, Place | None]] = {
            event_id: dict.fromkeys(wanted[event_id])
            for event_id, answer in answers.items()
            if isinstance(answer, EventNotFound)
        }
        readings = await self._store.read_many({event_id: wanted[event_id] for event_id in sales})
        unbuilt = [event_id for event_id, reading in readings.items() if isinstance(reading, NotBuilt)]
        if unbuilt:
            await self._build(unbuilt)
            readings |= await self._store.read_many({event_id: wanted[event_id] for event_id in unbuilt})
        expects = await self._foresight.expect(sales)
        for event_id, (line, standings) in self._failures.without(readings).items():
            sale, expect = sales[event_id], expects[event_id]
            await self._keep_going(event_id, line, standings.values(), sale)
            told[event_id] = {
                user: tell(standing, line, sale, expect) if standing else None for user, standing in standings.items()
            }
        return told

    async def watch(self, event_id: int, user_id: int) -> AsyncIterator[Place]:
        """The place now, then its news. Raises EventNotFound, PlaceNotFound (also when the line lost the place)."""
        first = await self.place(event_id, user_id)
        yield first
        async with aclosing(self.watchers.follow(event_id, user_id, first)) as news:
            async for place in news:
                yield place

    async def claim(self, event_id: int, user_id: int) -> ClaimOutcome:
        """Turns a call into an admission, or finds it. The token is answered when the event log knows of it.

        Raises PlaceNotFound, PlaceNotReady, EventLogUnavailable, Unavailable: claim again.
        """
        try:
            admission = await self._when_built(event_id, lambda: self._store.claim(event_id, user_id))
        except EventNotFound:
            raise PlaceNotFound from None
        if admission.fresh:
            metrics.QUEUE_CLAIMED.inc()
        await self._publisher.told(event_id)
        line, place = await self._look(event_id, user_id)
        # A line that was lost meanwhile may have been rebuilt from a log that did not have the fact yet; and a replica
        # that took over is the same line without the admission.
        stands = place.state is PlaceState.ADMITTED and place.until == admission.until
        if line.incarnation != admission.incarnation or not stands:
            raise Unavailable("the admission was lost just now; claim again")
        name = token_id(event_id, user_id, admission.score, admission.since)
        token = AdmissionToken(user_id, event_id, to_ms(admission.until), name)
        return ClaimOutcome(place, token.encode(self._admission_keys), admission.until)

    async def leave(self, event_id: int, user_id: int) -> None:
        """Gives the place up; nothing happens where there is none."""
        try:
            left = await self._when_built(event_id, lambda: self._store.leave(event_id, user_id))
        except EventNotFound:
            return
        if left:
            # An admission may have ended with it: inventory is to hear of that at once, not with the next tick.
            self._publisher.nudge(event_id)
            metrics.QUEUE_ENDED.labels("left").inc()


def _failure(answer: object) -> Exception:
    """What went wrong, for one of many: a cancellation is everybody's."""
    if isinstance(answer, Exception):
        return answer
    raise answer if isinstance(answer, BaseException) else TypeError(answer)
