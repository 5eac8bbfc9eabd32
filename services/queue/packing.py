"""Values of the domain as messages of the contract."""

import math
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from boxoffice.queue.v1 import queue_events_pb2 as events_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.queue.admission.status import Status
from services.queue.line.domain import GENERAL, Lane, Mode, Place, PlaceState, Policy, SaleState, poll_after
from services.queue.line.transitions import Fact, FactKind
from services.queue.proofs.admission import token_id

_STATES: Final = {state: pb.Place.State.Value(f"STATE_{state.name}") for state in PlaceState}
SALE_STATES: Final = {state: pb.SaleState.Value(f"SALE_STATE_{state.name}") for state in SaleState}
MODES: Final = {mode: pb.QueuePolicy.Mode.Value(f"MODE_{mode.name}") for mode in Mode}
_MODES_BY_NUMBER: Final = {number: mode for mode, number in MODES.items()}


def stamp(moment: datetime | None) -> Timestamp | None:
    """A moment as a message; None stays None."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def place(event_id: int, told: Place) -> pb.Place:
    """A place as its owner is told, with a moment to ask again that differs from everyone else's."""
    jitter = random.random()  # noqa: S311 - spreads load, guards nothing
    return pb.Place(
        event_id=event_id,
        state=_STATES[told.state],
        position=told.position,
        ahead=told.ahead,
        total_waiting=told.total_waiting,
        eta_p10_seconds=math.floor(told.outlook.p10),
        eta_p50_seconds=math.ceil(told.outlook.p50),
        eta_p90_seconds=math.ceil(told.outlook.p90),
        seats_left=told.seats_left,
        sale_state=SALE_STATES[told.sale_state],
        poll_after_ms=poll_after(told, jitter) // timedelta(milliseconds=1),
        join_time=_moment(told.join_us),
        claim_expire_time=stamp(told.until) if told.state is PlaceState.READY else None,
        admission_expire_time=stamp(told.until) if told.state is PlaceState.ADMITTED else None,
        lane=told.lane.number,
        lane_name=told.lane.name,
        score=told.score,
        in_draw=told.in_draw,
        odds=told.outlook.odds,
        call_again_time=stamp(told.call_again),
    )


def _moment(micros: int) -> Timestamp | None:
    """A time in µs as a message, without the detour over datetime; None for 0."""
    if not micros:
        return None
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def policy(rules: Policy) -> pb.QueuePolicy:
    """A policy as operators are told."""
    return pb.QueuePolicy(
        mode=MODES[rules.mode],
        rate_per_second=rules.rate_per_second,
        inside_cap=rules.inside_cap,
        claim_window_seconds=rules.claim_window // timedelta(seconds=1),
        admission_seconds=rules.admission // timedelta(seconds=1),
        lanes=[pb.Lane(lane=lane.number, name=lane.name, weight=lane.weight) for lane in rules.lanes],
    )


def lanes(messages: Iterable[pb.Lane]) -> tuple[Lane, ...]:
    """Lanes of a message, by number."""
    told = (Lane(message.lane, message.name, message.weight) for message in messages)
    return tuple(sorted(told, key=lambda lane: lane.number))


def status(told: Status) -> pb.QueueStatus:
    """How a line goes, as operators are told."""
    return pb.QueueStatus(
        waiting=told.waiting,
        ready=told.ready,
        admitted=told.admitted,
        entrants=told.entrants,
        allowed_rate_per_second=told.allowed_rate,
        slowed_by=told.slowed_by,
        observed_rate_per_second=told.observed_rate,
        fence=told.fence,
    )


def facts(event_id: int, happened: Sequence[Fact]) -> bytes:
    """Facts of one event as a record of `queue.events`."""
    return events_pb.QueueEvents(events=[_fact(event_id, each) for each in happened]).SerializeToString()


def _fact(event_id: int, fact: Fact) -> events_pb.QueueEvent:
    event = events_pb.QueueEvent(id=fact.fact_id, time=stamp(fact.time), event_id=event_id)
    whose: dict[str, Any] = {"user_id": fact.user_id, "lane": fact.lane, "score": fact.score}
    match fact.kind:
        case FactKind.CALLED:
            called = events_pb.PlaceCalled(**whose, claim_expire_time=stamp(fact.until), calls=fact.calls)
            event.place_called.CopyFrom(called)
        case FactKind.ADMITTED:
            event.place_admitted.CopyFrom(events_pb.PlaceAdmitted(**whose, admission_expire_time=stamp(fact.until)))
        case FactKind.LEFT:
            event.place_left.CopyFrom(events_pb.PlaceLeft(**whose, **_ended_admission(event_id, fact)))
        case FactKind.DONE:
            event.place_done.CopyFrom(events_pb.PlaceDone(**whose, **_ended_admission(event_id, fact)))
    return event


def _ended_admission(event_id: int, fact: Fact) -> dict[str, Any]:
    """What tells inventory whose tokens are not good any more; nothing where there are none."""
    if fact.admitted is None:
        return {}
    name = token_id(event_id, fact.user_id, fact.score, fact.admitted)
    return {"admission_token_id": name, "admission_expire_time": stamp(fact.until)}


def policy_of(message: pb.QueuePolicy) -> Policy:
    """The policy of a message; the reverse of `policy`. Raises PolicyOutOfRange."""
    return Policy(
        mode=_MODES_BY_NUMBER[message.mode],
        rate_per_second=message.rate_per_second,
        inside_cap=message.inside_cap,
        claim_window=timedelta(seconds=message.claim_window_seconds),
        admission=timedelta(seconds=message.admission_seconds),
        lanes=lanes(message.lanes) or GENERAL,
    )
