"""A digest: a line in short, how its sale goes, and what those who wait may expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.common.place_in_digest import ForecastTable, Told, told_at
from services.queue import packing
from services.queue.digest.forecast import Prospects
from services.queue.digest.odds import Demand
from services.queue.digest.snapshot import LaneSnapshot, LineSnapshot
from services.queue.digest.throughput import Throughput, first_stay, observed_stay
from services.queue.line.domain import NO_WAIT, Lane, Mode, Outlook, Policy, Sale, SaleState


@dataclass(frozen=True, slots=True)
class Digest:
    """What is told about one line at one instant, to everyone."""

    line: LineSnapshot
    rules: Mapping[int, Lane]
    """The lanes in use, and those in which people still wait."""
    state: SaleState
    tables: Mapping[int, ForecastTable]
    """What is told of the wait, by lane."""
    in_draw: Told | None
    """What everyone in the draw is told, while there is one."""

    def expect(self, lane: int, position: int) -> Outlook:
        """What is told of the wait at a position of a lane; 0: in the draw."""
        table = self.tables.get(lane)
        told = told_at(position, table) if position and table else self.in_draw
        return NO_WAIT if told is None else Outlook(*told[:4])


def digest_of(line: LineSnapshot, policy: Policy, sale: Sale) -> Digest:
    """What can be told of a line that is run, and of a sale that goes, like this."""
    state, known = sale_state(line, policy.mode, sale), {lane.number: lane for lane in policy.lanes}
    rules = {
        number: known.get(number) or Lane(number, str(number), 1)
        for number, lane in sorted(line.lanes.items())
        if number in known or lane.scores.waiting
    }
    prospects = Prospects(
        throughput=_throughput(line, policy),
        waiting={lane: line.lanes[lane].scores.waiting for lane in rules},
        weights={lane: rule.weight for lane, rule in rules.items()},
        starts_in=max(sale.open_time - line.now, timedelta()).total_seconds(),
        demand=Demand(line.called, line.inside, line.seats_left, line.seats_total, line.sold_out),
        is_over=state.is_over,
    )
    tables = {lane: prospects.table(lane) for lane in rules}
    in_draw = None if line.draw_held or not line.entrants else prospects.in_draw(line.entrants)
    return Digest(line, rules, state, tables, in_draw)


def sale_state(line: LineSnapshot, mode: Mode, sale: Sale) -> SaleState:
    """How the sale goes at the instant of `line`."""
    if line.sold_out:
        return SaleState.SOLD_OUT
    if line.now >= sale.close_time:
        return SaleState.CLOSED
    if line.now < sale.open_time:
        return SaleState.SCHEDULED if line.incarnation else SaleState.RESTORING
    if line.restoring:
        return SaleState.RESTORING
    if not line.draw_held:
        return SaleState.DRAWING
    return SaleState.HELD if mode is Mode.HOLD else SaleState.OPEN


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
        sale_state=packing.SALE_STATES[digest.state],
        total_waiting=line.total_waiting,
        seats_left=line.seats_left,
        draw_key=line.draw_key,
        lanes=[_lane(digest, lane, line.lanes[lane]) for lane in digest.rules],
        changed_user_ids=line.changed,
    )
    if digest.in_draw:
        told.in_draw.CopyFrom(_forecast(0, digest.in_draw))
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
        forecast=_table(digest.tables[number]),
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
