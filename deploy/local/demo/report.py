"""The verdict: what happened, and whether everything that must never break held."""

from dataclasses import asdict, dataclass, field
from typing import Any

from deploy.local.demo.drawing import Drawing
from deploy.local.demo.fairness import Forecasts, LaneSummary
from deploy.local.demo.tally import Tally

# The share of waits that end inside of the range that was told: p10 to p90 is eight in ten.
ETA_TARGET = 0.8
# A share of fewer waits says little, because those of one sale go wrong together.
ETA_LEAST_WAITS = 300


@dataclass(frozen=True, slots=True)
class Ending:
    """What was found when the sale was over, from outside of the crowd."""

    states: dict[str, int]
    """Final states of the accepted bookings, as their buyers see them."""
    seats_sold: int
    """Seats that are not free any more."""
    pushes: int
    """Messages that the push provider took."""
    pushes_missing: int
    """Messages that were due to a device and did not come."""
    queue_jumpers: int
    """People who were overtaken in their lane."""
    lanes: dict[str, LaneSummary]
    """How each lane went, by name."""
    forecasts: Forecasts
    """How the ranges that people were told came true."""
    drawing: Drawing
    """How the draw verified."""
    audit: dict[str, Any]
    """The report of the auditor: what differs between Redis, MySQL and payments."""
    demand: int
    """Tickets that the people who would have paid wanted."""


@dataclass(slots=True)
class Report:
    """One run of the demo, ready to be printed and written as JSON."""

    buyers: int
    seats: int
    events: str
    seconds: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    bookings: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    invariants: dict[str, int] = field(default_factory=dict)
    draw: dict[str, Any] = field(default_factory=dict)
    lanes: dict[str, Any] = field(default_factory=dict)
    eta: dict[str, Any] = field(default_factory=dict)
    seats_sold: int = 0
    seats_sellable: int = 0
    violations: list[str] = field(default_factory=list)
    server_faults: dict[str, int] = field(default_factory=dict)
    logs: str = ""
    """Where the logs of a run that failed are kept."""

    @property
    def passed(self) -> bool:
        """Every invariant held and everything that could be sold was sold."""
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {"passed": self.passed, **asdict(self)}


def judge(report: Report, tally: Tally, ending: Ending) -> Report:
    """Fills the report and lists every violation in words."""
    undecided = sum(ending.states.get(state, 0) for state in ("PENDING", "RESERVED", "LOST"))
    report.counts = dict(sorted(tally.counts.items())) | {
        "pushes": ending.pushes,
        "pushes_missing": ending.pushes_missing,
    }
    report.bookings = {
        state: ending.states.get(state, 0) for state in ("CONFIRMED", "REJECTED", "EXPIRED", "REFUNDED")
    } | ending.states
    report.latency_ms = {what: tally.milliseconds(what) for what in ("signup", "join", "claim", "reserve", "confirm")}
    report.server_faults = dict(tally.server_faults)
    report.draw = asdict(ending.drawing)
    report.lanes = {name: asdict(lane) for name, lane in ending.lanes.items()}
    report.eta = {**asdict(ending.forecasts), "share": ending.forecasts.share, "target": ETA_TARGET}
    report.seats_sold = ending.seats_sold
    report.seats_sellable = min(report.seats, ending.demand)
    report.invariants = {
        "oversold": int(ending.audit["oversold"]),
        "leaked": int(ending.audit["leaked"]),
        "paid_without_ticket": int(ending.audit["paid_without_ticket"]),
        "undecided": max(undecided, int(ending.audit["undecided"])),
        "mismatch": int(ending.audit["mismatch"]),
        "queue_jumpers": ending.queue_jumpers,
        "draw_unverified": int(not ending.drawing.verified),
        "draw_unexplained": ending.drawing.unexplained,
        "draw_misplaced": ending.drawing.misplaced,
        "line_skipped": tally.counts["skip_attempts"] - tally.counts["skips_refused"],
        "promises_broken": len(tally.broken),
        "server_faults": tally.server_faults.total(),
    }
    report.violations = _violations(report, tally, ending)
    return report


def _violations(report: Report, tally: Tally, ending: Ending) -> list[str]:
    found = [f"{name} is {value}, must be 0" for name, value in report.invariants.items() if value]
    found += tally.broken[:20]
    found += [f"{count} × {what}" for what, count in tally.server_faults.items()]
    if report.seats_sold < report.seats_sellable:
        found.append(f"only {report.seats_sold} of {report.seats_sellable} seats that could be sold were sold")
    if len(tally.tickets) != report.seats_sold:
        found.append(f"buyers were shown {len(tally.tickets)} tickets, the ledger sold {report.seats_sold}")
    if not ending.drawing.verified:
        found.append(f"the draw does not verify: {ending.drawing.told}")
    if _forecasts_failed(ending.forecasts):
        found.append(f"only {ending.forecasts.share:.0%} of the waits ended inside of the range told first")
    if ending.pushes_missing:
        found.append(f"{ending.pushes_missing} pushes that were due did not arrive")
    if not ending.audit["clean"]:
        found += [f"the auditor: {finding}" for finding in ending.audit["findings"][:20]]
    return found


def _forecasts_failed(forecasts: Forecasts) -> bool:
    return forecasts.waits >= ETA_LEAST_WAITS and forecasts.inside < ETA_TARGET * forecasts.waits


def as_text(report: Report) -> str:
    """The summary for people."""
    counts = report.counts
    lines = [
        "",
        f"Boxoffice demo: {report.buyers:,} buyers, {report.seats:,} seats, event log: {report.events}",
        "",
        (
            f"  joined     {counts.get('joined', 0):>7,}    admitted   {counts.get('admitted', 0):>7,}"
            f"    left       {counts.get('left', 0):>7,}    turned away {counts.get('turned_away', 0):>6,}"
        ),
        (
            f"  reserved   {counts.get('accepted', 0):>7,}    confirmed  {report.bookings['CONFIRMED']:>7,}"
            f"    rejected   {report.bookings['REJECTED']:>7,}    expired     {report.bookings['EXPIRED']:>6,}"
        ),
        (
            f"  seats sold {report.seats_sold:>7,}    declined   {counts.get('declined', 0):>7,}"
            f"    replays    {counts.get('replays', 0):>7,}    pushes      {counts['pushes']:>6,}"
        ),
        f"  attempts to skip the line {counts.get('skip_attempts', 0):,}, refused {counts.get('skips_refused', 0):,}",
        "",
        *_line(report),
        "",
        "  latency      p50 ms    p99 ms",
        *(f"  {what:<10} {v['p50']:>8,.1f}  {v['p99']:>8,.1f}" for what, v in report.latency_ms.items()),
        "",
        "  must be 0:  " + "  ".join(f"{name} {value}" for name, value in report.invariants.items()),
        "  seconds:    " + "  ".join(f"{name} {value:.1f}" for name, value in report.seconds.items()),
        "",
    ]
    lines += [f"  VIOLATED: {violation}" for violation in report.violations]
    sold = f"{report.seats_sold} of {report.seats_sellable} seats that could be sold were sold"
    lines.append(f"  PASSED: every invariant held; {sold}" if report.passed else f"  FAILED; logs are in {report.logs}")
    return "\n".join(lines)


def _line(report: Report) -> list[str]:
    """How the waiting room went."""
    counts, draw = report.counts, report.draw
    verified = f"verified, with {draw['receipts']:,} receipts" if draw["verified"] else "NOT VERIFIED"
    lanes = [
        f"  lane {name:<12} {lane['people']:>6,} people, {lane['drawn']:>6,} by draw,"
        f" {lane['called']:>6,} called after {lane['mean_wait_seconds']:.1f} s on average"
        for name, lane in report.lanes.items()
    ]
    return [
        f"  draw of {draw['entrants']:,} who came before the opening: {verified}",
        *lanes,
        f"  missed calls {counts.get('missed_calls', 0):,}, second chances {counts.get('second_chances', 0):,}",
        f"  places found again on another device {counts.get('restored', 0):,}",
        f"  {_eta(report.eta)}",
    ]


def _eta(eta: dict[str, Any]) -> str:
    """How the forecasts came true, plainly."""
    if not eta["waits"]:
        return "ETA: nobody who was told a range was called later"
    told = f"ETA: {eta['inside']:,} of {eta['waits']:,} waits ({eta['share']:.0%}) ended inside of the range told first"
    if eta["waits"] < ETA_LEAST_WAITS:
        return f"{told}; too few to judge"
    return f"{told}; {'target' if eta['share'] >= ETA_TARGET else 'BELOW the target of'} {ETA_TARGET:.0%}"
