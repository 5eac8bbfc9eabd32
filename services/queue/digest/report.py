"""A digest: a line in short, how its sale goes, and what those who wait may expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.common.place_in_digest import ForecastTable, Told
from services.queue import packing
from services.queue.digest.forecast import Prospects
from services.queue.digest.odds import Demand
from services.queue.digest.snapshot import LaneSnapshot, LineSnapshot
from services.queue.digest.throughput import Throughput, first_stay, observed_stay
from services.queue.line.domain import Mode, Policy, Sale


@dataclass(frozen=True, slots=True)
class LaneRule:
    """How a lane is called."""

    name: str
    weight: int


_GENERAL: Final = LaneRule("general", 1)


@dataclass(frozen=True, slots=True)
class Digest:
    """What is told about one line at one instant, to everyone."""

    line: LineSnapshot
    rules: Mapping[int, LaneRule]
    """The lanes in use, and those in which people still wait."""
    state: "pb.SaleState.ValueType"
    prospects: Prospects


def digest_of(line: LineSnapshot, policy: Policy, sale: Sale) -> Digest:
    """What can be told of a line that is run, and of a sale that goes, like this."""
    state, rules = sale_state(line, policy.mode, sale), {0: _GENERAL}
    used = {
        lane: rules.get(lane) or LaneRule("", 1)
        for lane, each in sorted(line.lanes.items())
        if lane in rules or each.scores.waiting
    }
    prospects = Prospects(
        throughput=_throughput(line, policy),
        waiting={lane: line.lanes[lane].scores.waiting for lane in used},
        weights={lane: rule.weight for lane, rule in used.items()},
        starts_in=max(sale.open_time - line.now, timedelta()).total_seconds(),
        demand=Demand(line.called, line.inside, line.seats_left, line.seats_total, line.sold_out),
        is_over=state in {pb.SALE_STATE_SOLD_OUT, pb.SALE_STATE_CLOSED},
    )
    return Digest(line, used, state, prospects)


def sale_state(line: LineSnapshot, mode: Mode, sale: Sale) -> "pb.SaleState.ValueType":
    """How the sale goes at the instant of `line`."""
    if line.sold_out:
        return pb.SALE_STATE_SOLD_OUT
    if line.now >= sale.close_time:
        return pb.SALE_STATE_CLOSED
    if line.restoring:
        return pb.SALE_STATE_RESTORING
    if line.now < sale.open_time:
        return pb.SALE_STATE_SCHEDULED
    if not line.draw_held:
        return pb.SALE_STATE_DRAWING
    return pb.SALE_STATE_HELD if mode is Mode.HOLD else pb.SALE_STATE_OPEN


def _throughput(line: LineSnapshot, policy: Policy) -> Throughput:
    """While slots are free, as the last minute was; a full house shows no more of the rate than the policy does."""
    rate, cap = policy.rate_per_second, policy.inside_cap
    has_room = cap - line.inside > rate
    if has_room and line.observed_rate is not None:
        rate = min(rate, line.observed_rate)
    admission, claim = policy.admission.total_seconds(), policy.claim_window.total_seconds()
    guess = first_stay(policy.rate_per_second, cap, admission, claim)
    stay, doubt = observed_stay(line.stays, guess, longest=admission + claim)
    return Throughput(rate, cap, line.inside, stay, doubt)


def message(digest: Digest) -> pb.WatchDigestResponse:
    """A digest as an edge process hears it."""
    line = digest.line
    told = pb.WatchDigestResponse(
        time=packing.stamp(line.now),
        incarnation=line.incarnation,
        sale_state=digest.state,
        total_waiting=line.total_waiting,
        seats_left=line.seats_left,
        draw_key=line.draw_key,
        lanes=[_lane(digest, lane, line.lanes[lane]) for lane in digest.rules],
        changed_user_ids=line.changed,
    )
    if line.in_draw:
        told.in_draw.CopyFrom(_forecast(0, digest.prospects.in_draw(line.in_draw)))
    return told


def _lane(digest: Digest, number: int, lane: LaneSnapshot) -> pb.LaneDigest:
    return pb.LaneDigest(
        lane=number,
        name=digest.rules[number].name,
        waiting=lane.scores.waiting,
        watermark=lane.watermark,
        front=lane.scores.front,
        samples=lane.scores.samples,
        sample_positions=lane.scores.sample_positions,
        forecast=_table(digest.prospects.table(number)),
    )


def _table(table: ForecastTable) -> list[pb.Forecast]:
    return [_forecast(position, told) for position, told in zip(table.positions, table.told, strict=True)]


def _forecast(position: int, told: Told) -> pb.Forecast:
    return pb.Forecast(
        position=position,
        eta_p10_seconds=told.eta_p10_seconds,
        eta_p50_seconds=told.eta_p50_seconds,
        eta_p90_seconds=told.eta_p90_seconds,
        odds=told.odds,
        poll_after_ms=round(told.poll_after_ms),
    )
