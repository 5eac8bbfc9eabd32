"""What happened, counted where it was seen: at the client."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie, by nearest rank; 0 when there are none."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(slots=True)
class Tally:
    """Counts, durations in seconds, and every promise that an answer made to a client."""

    counts: Counter[str] = field(default_factory=Counter)
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broken: list[str] = field(default_factory=list)
    """Promises that did not hold, in words."""
    server_faults: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, int] = field(default_factory=dict)
    """Booking id answered with 202 → the buyer's number."""
    tickets: dict[int, str] = field(default_factory=dict)
    """Ticket shown as bought → its booking."""

    def timed(self, what: str, seconds: float) -> None:
        """Adds one duration."""
        self.durations[what].append(seconds)

    def server_fault(self, what: str) -> None:
        """Counts an answer that no request should get."""
        self.server_faults[what] += 1

    def promise_broken(self, what: str) -> None:
        """Notes that something the API said turned out wrong."""
        self.broken.append(what)

    def bought(self, booking_id: str, ticket_ids: list[int]) -> None:
        """Notes tickets that a buyer was told are theirs; two owners of one ticket are a broken promise."""
        for ticket_id in ticket_ids:
            owner = self.tickets.setdefault(ticket_id, booking_id)
            if owner != booking_id:
                self.promise_broken(f"ticket {ticket_id} was sold to {owner} and to {booking_id}")

    def milliseconds(self, what: str) -> dict[str, float]:
        """p50 and p99 of one kind of call, in milliseconds."""
        values = self.durations[what]
        return {"p50": round(percentile(values, 0.50) * 1000, 1), "p99": round(percentile(values, 0.99) * 1000, 1)}
