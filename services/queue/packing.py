"""Values of the domain as messages of the contract."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from boxoffice.queue.v1 import queue_events_pb2 as events_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.queue.line.domain import Mode, Place, PlaceState, Policy, SaleState, poll_after
from services.queue.line.transitions import Call

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
        eta_p50_seconds=_whole_seconds(told.eta_p50),
        eta_p90_seconds=_whole_seconds(told.eta_p90),
        seats_left=told.seats_left,
        sale_state=SALE_STATES[told.sale_state],
        poll_after_ms=poll_after(told, jitter) // timedelta(milliseconds=1),
        join_time=stamp(_join_time(told.score)),
        claim_expire_time=stamp(told.until) if told.state is PlaceState.READY else None,
        admission_expire_time=stamp(told.until) if told.state is PlaceState.ADMITTED else None,
    )


def _whole_seconds(span: timedelta) -> int:
    return math.ceil(span.total_seconds())


def _join_time(score: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=score)


def policy(rules: Policy) -> pb.QueuePolicy:
    """A policy as operators are told."""
    return pb.QueuePolicy(
        mode=MODES[rules.mode],
        rate_per_second=rules.rate_per_second,
        inside_cap=rules.inside_cap,
        claim_window_seconds=rules.claim_window // timedelta(seconds=1),
        admission_seconds=rules.admission // timedelta(seconds=1),
    )


def facts(event_id: int, happened: Sequence[Call]) -> bytes:
    """Facts of one event as a record of `queue.events`."""
    return events_pb.QueueEvents(events=[_call(event_id, each) for each in happened]).SerializeToString()


def _call(event_id: int, call: Call) -> events_pb.QueueEvent:
    return events_pb.QueueEvent(
        id=call.call_id,
        time=stamp(call.time),
        event_id=event_id,
        place_called=events_pb.PlaceCalled(user_id=call.user_id, claim_expire_time=stamp(call.claim_expire_time)),
    )


def policy_of(message: pb.QueuePolicy) -> Policy:
    """The policy of a message; the reverse of `policy`. Raises PolicyOutOfRange."""
    return Policy(
        mode=_MODES_BY_NUMBER[message.mode],
        rate_per_second=message.rate_per_second,
        inside_cap=message.inside_cap,
        claim_window=timedelta(seconds=message.claim_window_seconds),
        admission=timedelta(seconds=message.admission_seconds),
    )
