"""What can be done in a waiting room, one method for each wish of a buyer or an operator."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.common import metrics
from services.common.errors import Unavailable
from services.common.tokens import AdmissionToken, KeyRing
from services.queue.admission.failures import Failures
from services.queue.catalog import EventCatalog
from services.queue.line.domain import (
    EventNotFound,
    Line,
    Place,
    PlaceInvalid,
    PlaceNotFound,
    PlaceState,
    Policy,
    Sale,
    Standing,
    tell,
)
from services.queue.line.store import LineStore, to_ms
from services.queue.line.transitions import Admission, JoinCommand
from services.queue.proofs.place import SignedPlace
from services.queue.watch import PlaceWatch

# Every change of a policy; operators answer for what they did in the middle of a sale.
_audit = logging.getLogger("boxoffice.audit")


@dataclass(frozen=True, slots=True)
class JoinOutcome:
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
    """The lines of all events, as people and operators use them."""

    def __init__(self, store: LineStore, catalog: EventCatalog, place_keys: KeyRing, admission_keys: KeyRing) -> None:
        self._store = store
        self._catalog = catalog
        self._place_keys = place_keys
        self._admission_keys = admission_keys
        self._failures = Failures("watchers")
        self.watchers = PlaceWatch(self.places)

    async def join(self, event_id: int, user_id: int, signed_place: str) -> JoinOutcome:
        """Takes, finds or restores a place.

        Raises EventNotFound, SaleClosed, SoldOut, PlaceInvalid, Unavailable (Redis was emptied meanwhile).
        """
        sale = await self._catalog.sale(event_id)
        restore_score = self._proven_score(event_id, user_id, signed_place)
        joined = await self._store.join(JoinCommand(event_id, user_id, sale, restore_score))
        outcome = "found" if not joined.fresh else "restored" if joined.score == restore_score else "joined"
        metrics.QUEUE_JOINS.labels(outcome).inc()
        proof = SignedPlace(user_id, event_id, joined.score).encode(self._place_keys)
        try:
            place = await self.place(event_id, user_id)
        except PlaceNotFound:
            raise Unavailable("the line was lost just now; join again") from None
        return JoinOutcome(place, proof, already_joined=not joined.fresh)

    def is_proven(self, event_id: int, user_id: int, signed_place: str) -> bool:
        """Whether this account brings the proof of a place in this line. A forged one is refused when it joins."""
        try:
            return self._proven_score(event_id, user_id, signed_place) is not None
        except PlaceInvalid:
            return False

    def _proven_score(self, event_id: int, user_id: int, signed_place: str) -> int | None:
        if not signed_place:
            return None
        place = SignedPlace.decode(self._place_keys, signed_place)
        place.check_bearer(user_id, event_id)
        return place.score

    async def _keep_going(self, event_id: int, line: Line, standings: Iterable[Standing | None], sale: Sale) -> None:
        """Has the line ticked while somebody waits and looks.

        Redis may have been emptied after a join was announced: with those who have come back since, and perhaps nobody
        who joins later, the line would stand still. What was announced lately costs nothing.
        """
        if line.now < sale.close_time and any(each and each.state is PlaceState.WAITING for each in standings):
            await self._store.announce(event_id)

    async def place(self, event_id: int, user_id: int) -> Place:
        """One person's place now. Raises EventNotFound, PlaceNotFound."""
        sale = await self._catalog.sale(event_id)
        line, standing = await self._store.read(event_id, user_id)
        if standing is None:
            raise PlaceNotFound
        await self._keep_going(event_id, line, [standing], sale)
        return tell(standing, line, sale)

    async def places(self, wanted: Mapping[int, Sequence[int]]) -> dict[int, dict[int, Place | None]]:
        """Places by event and user, read in one pipeline; None for who has none, also where the event is no more.

        An event that cannot be told about now is absent.
        """
        answers = dict(
            zip(wanted, await asyncio.gather(*map(self._catalog.sale, wanted), return_exceptions=True), strict=True)
        )
        sales = {event_id: answer for event_id, answer in answers.items() if isinstance(answer, Sale)}
        told: dict[int, dict[int, Place | None]] = {
            event_id: dict.fromkeys(wanted[event_id])
            for event_id, answer in answers.items()
            if isinstance(answer, EventNotFound)
        }
        readings = await self._store.read_many({event_id: wanted[event_id] for event_id in sales})
        for event_id, (line, standings) in self._failures.without(readings).items():
            sale = sales[event_id]
            await self._keep_going(event_id, line, standings.values(), sale)
            told[event_id] = {user: tell(each, line, sale) if each else None for user, each in standings.items()}
        return told

    async def watch(self, event_id: int, user_id: int) -> AsyncIterator[Place]:
        """The place now, then its news. Raises EventNotFound, PlaceNotFound (also when the line lost the place)."""
        first = await self.place(event_id, user_id)
        yield first
        async with aclosing(self.watchers.follow(event_id, user_id, first)) as news:
            async for place in news:
                yield place

    async def claim(self, event_id: int, user_id: int) -> ClaimOutcome:
        """Turns a call into an admission, or finds it. Raises PlaceNotFound, PlaceNotReady."""
        admission = await self._store.claim(event_id, user_id)
        if admission.fresh:
            metrics.QUEUE_CLAIMED.inc()
        token = AdmissionToken(user_id, event_id, to_ms(admission.until), _token_id(event_id, user_id, admission))
        place = await self.place(event_id, user_id)
        return ClaimOutcome(place, token.encode(self._admission_keys), admission.until)

    async def leave(self, event_id: int, user_id: int) -> None:
        """Gives the place up; nothing happens where there is none."""
        if await self._store.leave(event_id, user_id):
            metrics.QUEUE_ENDED.labels("left").inc()

    async def policy(self, event_id: int) -> Policy:
        """How the line is run. Raises EventNotFound."""
        await self._catalog.sale(event_id)
        return await self._store.policy(event_id)

    async def update_policy(self, event_id: int, operator_id: int, changes: Mapping[str, Any]) -> Policy:
        """Changes attributes of the policy and leaves an audit line. Raises EventNotFound, PolicyOutOfRange."""
        current = await self.policy(event_id)
        if not changes:
            return current
        wanted = replace(current, **changes)
        before, after = await self._store.set_policy(event_id, wanted, changes.keys())
        fields = {"event_id": event_id, "user_id": operator_id, "before": _told(before), "after": _told(after)}
        _audit.info("queue policy changed", extra={"fields": fields})
        return after


def _told(policy: Policy) -> dict[str, object]:
    return {
        "mode": policy.mode.value,
        "rate_per_second": policy.rate_per_second,
        "inside_cap": policy.inside_cap,
        "claim_window_seconds": policy.claim_window.total_seconds(),
        "admission_seconds": policy.admission.total_seconds(),
    }


def _token_id(event_id: int, user_id: int, admission: Admission) -> str:
    """The same for every token of one admission, and never again."""
    text = f"boxoffice.admission|{event_id}|{user_id}|{admission.score}|{to_ms(admission.since)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
