"""What someone is told, as JSON: the same bytes that the transcoder would make of the same place, some times faster.

The transcoder writes a template for each lane of a digest, in which the slots of what differs from person to person are
left open. Whoever waits in a lane or in the draw is told with it; everyone else as a message, which takes longer.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

import orjson
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from edge.line.digest import Common, LineView, common_of
from edge.line.places import Known, Standing
from edge.transcode.dump import DumperCompiler, to_json
from edge.transcode.problems import ContractError
from services.common.place_in_digest import Told

# In the order of the contract, which is that of the values below.
_SLOTS: Final[Mapping[str, bytes]] = {
    "position": b"%d",
    "ahead": b"%d",
    "eta_p50_seconds": b"%d",
    "eta_p90_seconds": b"%d",
    "poll_after_ms": b"%d",
    "join_time": b"%b",
    "eta_p10_seconds": b"%d",
    "score": b"%d",
    "odds": b"%b",
}
# Finer ones would be noise.
_ODDS_DIGITS: Final = 4

_dump = DumperCompiler().compile(pb.WatchPlaceResponse.DESCRIPTOR)


def document(known: Known, standing: Standing, view: LineView | None, now: float) -> bytes:
    """The answer of GetPlace, and an event of WatchPlace. Without a view it is queue's last answer as it was."""
    # Who has a standing with a forecast waits in a lane of the view, or in the draw.
    if view is None or standing.forecast is None or not known.is_simple:
        return to_json(_dump(pb.WatchPlaceResponse(place=place_of(known, standing, view, now))))
    p10, p50, p90, odds, poll_after_ms = standing.forecast
    position, age = standing.position, now - view.received
    values: tuple[Any, ...] = (
        position,
        position - 1 if position else 0,
        ceil(p50 - age) if p50 > age else 0,
        ceil(p90 - age) if p90 > age else 0,
        int(poll_after_ms * known.jitter),
        known.join_time,
        int(p10 - age) if p10 > age else 0,
        known.score,
    )
    template = view.templates.get((known.lane, known.in_draw, odds is not None))
    if template is None:
        template = _add_template(known, view, has_odds=odds is not None)
    return template % (values if odds is None else (*values, orjson.dumps(_odds(odds))))


def place_of(known: Known, standing: Standing, view: LineView | None, now: float) -> pb.Place:
    """The same as a message: queue's last answer, and over it what the view knows better."""
    place = pb.Place.FromString(known.answer)
    if view is None:
        return place
    _set_common(place, view.common)
    place.position, place.ahead = standing.position, max(standing.position - 1, 0)
    if known.lane in view.lanes:
        place.lane_name = view.lanes[known.lane].name
    if standing.forecast is not None:
        _set_forecast(place, standing.forecast, known.jitter, now - view.received)
    return place


def common_for(known: Known, view: LineView | None) -> Common:
    """What a document says about the whole line."""
    return view.common if view is not None else common_of(pb.Place.FromString(known.answer))


def _set_common(place: pb.Place, common: Common) -> None:
    place.total_waiting, place.sale_state = common.total_waiting, common.sale_state  # type: ignore[assignment] # an enum is a number
    place.ClearField("seats_left")
    if common.seats_left is not None:
        place.seats_left = common.seats_left


def _set_forecast(place: pb.Place, told: Told, jitter: float, age: float) -> None:
    # Outwards, as queue does it: the range must hold what it promises.
    place.eta_p10_seconds = int(max(told.eta_p10_seconds - age, 0))
    place.eta_p50_seconds = _seconds(told.eta_p50_seconds, age)
    place.eta_p90_seconds = _seconds(told.eta_p90_seconds, age)
    place.poll_after_ms = int(told.poll_after_ms * jitter)
    place.ClearField("odds")
    if told.odds is not None:
        place.odds = _odds(told.odds)


def _seconds(eta: float, age: float) -> int:
    """What is left of a time that was told `age` seconds ago."""
    return ceil(eta - age) if eta > age else 0


def _odds(chance: float) -> float:
    return round(chance, _ODDS_DIGITS)


def _add_template(known: Known, view: LineView, *, has_odds: bool) -> bytes:
    template = _compile(_sample(known, view, has_odds=has_odds))
    view.templates[known.lane, known.in_draw, has_odds] = template
    return template


def _sample(known: Known, view: LineView, *, has_odds: bool) -> pb.Place:
    """Somebody of this lane; what is in the slots does not matter, as long as it is there."""
    lane = view.lanes.get(known.lane)
    place = pb.Place(
        event_id=known.event_id,
        state=pb.Place.STATE_WAITING,
        join_time=Timestamp(seconds=1),
        lane=known.lane,
        lane_name=lane.name if lane is not None else pb.Place.FromString(known.answer).lane_name,
        in_draw=known.in_draw,
        odds=1.0 if has_odds else None,
    )
    _set_common(place, view.common)
    return place


def _compile(sample: pb.Place) -> bytes:
    told = _dump(pb.WatchPlaceResponse(place=sample))["place"]
    if [name for name in told if name in _SLOTS] != [name for name in _SLOTS if name in told]:
        raise ContractError("the fields of Place have another order than their slots")
    fields = (b'"%b":%b' % (name.encode(), _slot(name, value)) for name, value in told.items())
    return b'{"place":{%b}}' % b",".join(fields)


def _slot(name: str, value: Any) -> bytes:
    return _SLOTS.get(name) or to_json(value).replace(b"%", b"%%")
