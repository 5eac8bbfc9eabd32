"""A line at one instant, made ready for telling many people where they stand in it."""

from dataclasses import dataclass, field
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.common.place_in_digest import ForecastTable, LaneScores, Told

_OVER: Final = frozenset({pb.SALE_STATE_SOLD_OUT, pb.SALE_STATE_CLOSED})
# An interpolated position is off by 0.2 % of the lane at most.
_NOISE: Final = 500


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane."""

    name: str
    # Who waits at or below it must be asked for.
    watermark: int
    scores: LaneScores
    # None where nothing is forecast.
    forecast: ForecastTable | None

    @property
    def noise(self) -> int:
        """How far a position behind the front may be off."""
        return self.scores.waiting // _NOISE


@dataclass(frozen=True, slots=True)
class Common:
    """What everyone in a line is told alike. Another one than before is news for all."""

    total_waiting: int
    seats_left: int | None
    sale_state: int

    @property
    def is_over(self) -> bool:
        """Whether nobody will be called any more."""
        return self.sale_state in _OVER


@dataclass(frozen=True, slots=True, eq=False)
class LineView:
    """A line, as a digest tells it."""

    # On the clock of the event loop.
    received: float
    # What is known of people holds within one era: another life of the line, or a gap in its digests, begins a new one.
    era: int
    common: Common
    # False while the line has been lost and not been built again: then queue alone knows who stands where.
    is_built: bool
    # b"" until the draw is held, and everyone of it is in line.
    draw_key: bytes
    lanes: dict[int, LaneView]
    # Who must be asked for.
    changed: frozenset[int]
    # What everyone in the draw is told; None when there is no draw.
    in_draw: Told | None
    # Of documents, made when first needed, by lane, whether in the draw, and whether with odds.
    templates: dict[tuple[int, bool, bool], bytes] = field(default_factory=dict)


def view_of(digest: pb.WatchDigestResponse, received: float, era: int) -> LineView:
    """A digest as the telling needs it: plain numbers, which are compared and computed with thousands of times."""
    is_built = digest.incarnation != 0
    is_told = is_built or digest.sale_state in _OVER
    return LineView(
        received=received,
        era=era,
        common=Common(
            total_waiting=digest.total_waiting,
            seats_left=digest.seats_left if digest.HasField("seats_left") else None,
            sale_state=digest.sale_state if is_told else pb.SALE_STATE_RESTORING,
        ),
        is_built=is_built,
        draw_key=digest.draw_key,
        lanes={lane.lane: _lane(lane) for lane in digest.lanes},
        changed=frozenset(digest.changed_user_ids),
        in_draw=_told(digest.in_draw) if digest.HasField("in_draw") else None,
    )


def common_of(place: pb.Place) -> Common:
    """What an answer of queue says about the whole line."""
    seats_left = place.seats_left if place.HasField("seats_left") else None
    return Common(place.total_waiting, seats_left, place.sale_state)


def _lane(lane: pb.LaneDigest) -> LaneView:
    scores = LaneScores(lane.waiting, list(lane.front), list(lane.samples), list(lane.sample_positions))
    knots = [knot.position for knot in lane.forecast]
    forecast = ForecastTable(knots, [_told(knot) for knot in lane.forecast]) if knots else None
    return LaneView(lane.name, lane.watermark, scores, forecast)


def _told(forecast: pb.Forecast) -> Told:
    return Told(
        forecast.eta_p10_seconds,
        forecast.eta_p50_seconds,
        forecast.eta_p90_seconds,
        forecast.odds if forecast.HasField("odds") else None,
        forecast.poll_after_ms,
    )
