"""The door of the waiting room: how often somebody may knock, and what a newcomer is asked. It stands before the line.

Who has a place, or brings the proof of one that did not end yet, is no newcomer: a whole university behind one address
comes back after a loss of the line, and comes in.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.common import metrics
from services.common.errors import BoxofficeError
from services.common.limits import Limiter
from services.queue.challenge import Challenge, ChallengeRequired
from services.queue.line.domain import Place

Places = Callable[[Mapping[int, Sequence[int]]], Awaitable[Mapping[int, Mapping[int, Place | None]]]]


@dataclass(frozen=True, slots=True)
class Knock:
    """Somebody who wants to join."""

    event_id: int
    user_id: int
    # As the edge sees it; "" where it is not known, and then not counted.
    client_address: str
    challenge_answer: str
    # Whether they brought a signed place of theirs.
    has_proof: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a knock."""

    # Why they may not join now; None: they may.
    refusal: BoxofficeError | None
    # The address that paid for it; "" where none did.
    paid_by: str = ""


class Door:
    """Lets people through to the line, many at a time. Without a challenge nobody is asked anything."""

    def __init__(self, limiter: Limiter, challenge: Challenge | None, places: Places) -> None:
        self._limiter = limiter
        self._challenge = challenge
        self._places = places

    async def judge(self, knocks: Sequence[Knock]) -> list[Verdict]:
        """Who may join, in the order of the knocks.

        One round trip to Redis, and one more each where proofs are brought and where newcomers are refused.

        Each knock costs the account one. It costs the address one only where the challenge is answered, so that nobody
        spends the budget of their neighbours by failing.
        """
        knocks = await self._without_spent(knocks)
        asked = [await self._asks(knock) for knock in knocks]
        payers = [
            "" if knock.has_proof or question else knock.client_address
            for knock, question in zip(knocks, asked, strict=True)
        ]
        limits = await self._limiter.take([(knock.user_id, payer) for knock, payer in zip(knocks, payers, strict=True)])
        verdicts = [
            Verdict(refusal or question, "" if refusal else payer)
            for refusal, question, payer in zip(limits, asked, payers, strict=True)
        ]
        return await self._with_residents(knocks, verdicts)

    async def found(self, verdicts: Iterable[Verdict]) -> None:
        """Gives back what addresses paid for joins that found a place standing."""
        await self._limiter.give_back([verdict.paid_by for verdict in verdicts])

    async def _without_spent(self, knocks: Sequence[Knock]) -> list[Knock]:
        """Whose place has ended is a newcomer, whatever they bring: it gives them nothing in the line, either."""
        places = await self._places_of([knock for knock in knocks if knock.has_proof])
        return [replace(knock, has_proof=knock.has_proof and not _has_ended(places, knock)) for knock in knocks]

    async def _places_of(self, knocks: Iterable[Knock]) -> Mapping[int, Mapping[int, Place | None]]:
        wanted: dict[int, list[int]] = {}
        for knock in knocks:
            wanted.setdefault(knock.event_id, []).append(knock.user_id)
        return await self._places(wanted) if wanted else {}

    async def _asks(self, knock: Knock) -> ChallengeRequired | None:
        """What a newcomer has to answer first."""
        if self._challenge is None or knock.has_proof:
            return None
        if await self._challenge.passes(knock.event_id, knock.user_id, knock.challenge_answer):
            return None
        return ChallengeRequired(metadata=self._challenge.text(knock.event_id, knock.user_id))

    async def _with_residents(self, knocks: Sequence[Knock], verdicts: list[Verdict]) -> list[Verdict]:
        """Lets those in who were refused as newcomers and are none. The limit of an account holds for everybody."""
        doubtful = {index for index, verdict in enumerate(verdicts) if _is_for_newcomers(verdict.refusal)}
        places = await self._places_of(knocks[index] for index in doubtful)
        for index, knock in enumerate(knocks):
            if index in doubtful and _lives(places, knock):
                verdicts[index] = Verdict(None)
            _count(verdicts[index].refusal)
        return verdicts


def _is_for_newcomers(refusal: BoxofficeError | None) -> bool:
    return refusal is not None and refusal.metadata.get("limit") != "account"


def _lives(places: Mapping[int, Mapping[int, Place | None]], knock: Knock) -> bool:
    place = places.get(knock.event_id, {}).get(knock.user_id)
    return place is not None and not place.state.is_final


def _has_ended(places: Mapping[int, Mapping[int, Place | None]], knock: Knock) -> bool:
    place = places.get(knock.event_id, {}).get(knock.user_id)
    return place is not None and place.state.is_final


def _count(refusal: BoxofficeError | None) -> None:
    if refusal is not None:
        metrics.QUEUE_REFUSED.labels(refusal.metadata.get("limit", "challenge")).inc()
