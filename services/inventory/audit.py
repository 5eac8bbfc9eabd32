"""The auditor: what must never break, as numbers that must read 0, with whatever contradicts them.

Each check is one SQL statement and so sees one moment, while the shop goes on. Redis is read before MySQL: it is told
after a commit, so that what it says and MySQL does not know is wrong for certain.
"""

import asyncio
import enum
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from redis.asyncio import Redis

from services.common import metrics
from services.common.mysql import Database
from services.inventory.domain import SEAT_BITS, ticket_id
from services.inventory.mirror import Taken, promised_before, taken_seats

AUDIT_EVERY: Final = timedelta(seconds=15)
# The auditor shares its process with those who make bookings durable: it works for a twentieth of the time at most.
_REST: Final = 19
# What crashed is repaired within ten seconds of its hold time, and a promise not decided within ten waits for a worker
# that is not there; what was paid is at its end when the completer has come round.
GRACE: Final = timedelta(seconds=10)
MONEY_GRACE: Final = timedelta(seconds=60)
_PROMISES_AT_ONCE: Final = 500

_log = logging.getLogger(__name__)

_UNOWNED = """
    SELECT b.booking_id, b.state, b.ticket_count, COALESCE(o.owned, 0) FROM bookings b
    LEFT JOIN (SELECT booking_id, COUNT(*) AS owned, SUM(status = 'SOLD') AS sold FROM tickets
               WHERE id BETWEEN %s AND %s GROUP BY booking_id) o ON o.booking_id = b.booking_id
    WHERE b.event_id = %s AND b.state IN ('RESERVED', 'CONFIRMED') AND NOT (
        COALESCE(o.owned, 0) = b.ticket_count AND o.sold = IF(b.state = 'CONFIRMED', b.ticket_count, 0))
"""
_LEAKED = """
    SELECT t.id, t.status, t.booking_id, COALESCE(b.state, 'gone') FROM tickets t
    LEFT JOIN bookings b ON b.booking_id = t.booking_id
    WHERE t.id BETWEEN %s AND %s AND t.status <> 'AVAILABLE' AND (
        b.booking_id IS NULL OR b.state NOT IN ('RESERVED', 'CONFIRMED')
        OR NOT FIND_IN_SET(t.id - %s, b.seat_indexes)
        OR (b.state = 'RESERVED' AND b.expire_time < UTC_TIMESTAMP(6) - INTERVAL %s SECOND AND NOT EXISTS (
            SELECT 1 FROM payments p WHERE p.active_booking_id = b.booking_id AND p.state = 'INTENT')))
"""
_UNPAID_FOR = """
    SELECT c.provider_key, c.state, c.refunds, COALESCE(p.state, 'none'), COALESCE(b.state, 'none')
    FROM dummy_charges c
    LEFT JOIN payments p ON p.provider_key = c.provider_key LEFT JOIN bookings b ON b.booking_id = p.booking_id
    WHERE (b.event_id IS NULL OR b.event_id = %s) AND (c.refunds > 1 OR (
        c.create_time < UTC_TIMESTAMP(6) - INTERVAL %s SECOND AND (
            (c.state = 'CAPTURED' AND NOT COALESCE(p.state = 'CAPTURED' AND b.state = 'CONFIRMED', FALSE))
            OR (c.state = 'REFUNDED' AND NOT COALESCE(p.state = 'REFUNDED', FALSE)))))
"""
_UNPAID = """
    SELECT b.booking_id, c.state FROM bookings b
    LEFT JOIN payments p ON p.active_booking_id = b.booking_id AND p.state = 'CAPTURED'
    LEFT JOIN dummy_charges c ON c.provider_key = p.provider_key
    WHERE b.event_id = %s AND b.state = 'CONFIRMED' AND (p.payment_id IS NULL
        OR (p.provider = 'dummy' AND NOT COALESCE(c.state = 'CAPTURED', FALSE)))
"""
_OPEN_PAYMENTS = """
    SELECT p.payment_id, p.state FROM payments p JOIN bookings b ON b.booking_id = p.booking_id
    WHERE b.event_id = %s AND p.state IN ('INTENT', 'REFUND_DUE')
    AND p.create_time < UTC_TIMESTAMP(6) - INTERVAL %s SECOND
"""
_OWNERS = """
    SELECT t.id - %s, t.booking_id, t.status = 'SOLD' AND b.update_time < UTC_TIMESTAMP(6) - INTERVAL %s SECOND
    FROM tickets t JOIN bookings b ON b.booking_id = t.booking_id WHERE t.id BETWEEN %s AND %s
    ORDER BY t.id LIMIT %s
"""
# Read in a few milliseconds: who makes bookings durable in the same process must not wait longer.
_OWNERS_MOST: Final = 1000


class Kind(enum.StrEnum):
    """Which promise is broken."""

    OVERSOLD = "oversold"
    LEAKED = "leaked"
    PAID_WITHOUT_TICKET = "paid_without_ticket"
    UNDECIDED = "undecided"
    # Nobody is harmed yet: two places tell different stories.
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction: `count` tickets, payments or bookings of an event."""

    kind: Kind
    event_id: int
    subject: str
    detail: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was looked at and what was found."""

    event_ids: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def counts(self) -> dict[str, int]:
        """How many tickets, payments or bookings, by kind; each kind is there."""
        total: Counter[Kind] = Counter()
        for finding in self.findings:
            total[finding.kind] += finding.count
        return {kind.value: total[kind] for kind in Kind}


class Audit:
    """Compares what MySQL, Redis and the payment provider say. Reads only, and may run at any time.

    Args:
        db: the database of inventory.
        redis: where the seats are mirrored.
        grace: how long after its end a hold may be seen, a promise be undecided, or Redis (half as long again) not know
            of a sold seat.
        money_grace: how long a payment may be on its way.
    """

    def __init__(
        self, db: Database, redis: Redis, *, grace: timedelta = GRACE, money_grace: timedelta = MONEY_GRACE
    ) -> None:
        self._db = db
        self._redis = redis
        # The reconciler comes round every ten seconds, and takes its time.
        self._mirrored_seconds = 1.5 * grace.total_seconds()
        self._grace = grace
        self._money_seconds = money_grace.total_seconds()

    async def run(self, event_id: int | None = None) -> AuditReport:
        """Audits one event, or all that are published."""
        event_ids = [event_id] if event_id is not None else await self._published()
        findings = [finding for each in event_ids for finding in await self._event(each)]
        return AuditReport(tuple(event_ids), tuple(findings))

    async def _event(self, event_id: int) -> list[Finding]:
        mirrored = await taken_seats(self._redis, event_id)
        promised = await promised_before(self._redis, event_id, datetime.now(tz=UTC) - self._grace)
        found = [*await self._tickets(event_id), *await self._money(event_id)]
        if mirrored is not None:
            found += await self._mirror(event_id, mirrored)
        return found + await self._undecided(event_id, promised)

    async def _published(self) -> list[int]:
        return [row[0] for row in await self._rows("SELECT event_id FROM events WHERE published ORDER BY event_id")]

    async def _tickets(self, event_id: int) -> list[Finding]:
        first, last = _range(event_id)
        found: list[Finding] = []
        for booking_id, state, count, owned in await self._rows(_UNOWNED, first, last, event_id):
            kind = Kind.OVERSOLD if owned < count else Kind.MISMATCH
            detail = f"{state} with {count} tickets, owns {owned}"
            found.append(Finding(kind, event_id, booking_id, detail, max(1, count - owned)))
        for ticket, status, owner, state in await self._rows(_LEAKED, first, last, first, self._grace.total_seconds()):
            found.append(Finding(Kind.LEAKED, event_id, f"ticket {ticket}", f"{status} for {owner}, which is {state}"))
        return found

    async def _money(self, event_id: int) -> list[Finding]:
        found = [
            Finding(
                Kind.PAID_WITHOUT_TICKET,
                event_id,
                f"charge {key}",
                f"{charge}, {refunds} refunds, payment {payment}, booking {booking}",
            )
            for key, charge, refunds, payment, booking in await self._rows(_UNPAID_FOR, event_id, self._money_seconds)
        ]
        for booking_id, charge in await self._rows(_UNPAID, event_id):
            found.append(Finding(Kind.MISMATCH, event_id, booking_id, f"CONFIRMED, and the charge is {charge}"))
        for payment_id, state in await self._rows(_OPEN_PAYMENTS, event_id, self._money_seconds):
            found.append(Finding(Kind.UNDECIDED, event_id, f"payment {payment_id}", f"still {state}"))
        return found

    async def _mirror(self, event_id: int, taken: Sequence[Taken]) -> list[Finding]:
        """What Redis says that MySQL does not, unless a hold explains it; and sold seats that Redis would offer."""
        first, last = _range(event_id)
        rows = await self._owners(first, last)
        owners = {seat: owner for seat, owner, _ in rows}
        late = datetime.now(tz=UTC) - self._grace
        found = [
            Finding(Kind.LEAKED, event_id, f"seat {each.seat}", f"taken in Redis for {each.booking_id or 'nobody'}")
            for each in taken
            if owners.get(each.seat) != each.booking_id and (each.due is None or each.due < late)
        ]
        known = {(each.seat, each.booking_id) for each in taken}
        for seat, owner, settled in rows:
            if settled and (seat, owner) not in known:
                found.append(Finding(Kind.MISMATCH, event_id, f"seat {seat}", f"sold to {owner}, free in Redis"))
        return found

    async def _owners(self, first: int, last: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        window, start = self._mirrored_seconds, first
        while page := await self._rows(_OWNERS, first, window, start, last, _OWNERS_MOST):
            rows += page
            start = first + page[-1][0] + 1
        return rows

    async def _undecided(self, event_id: int, promised: Mapping[str, datetime]) -> list[Finding]:
        """Promises that MySQL knows nothing of, whether their seats are still held or not."""
        ids, decided = list(promised), set[str]()
        for at in range(0, len(ids), _PROMISES_AT_ONCE):
            batch = ids[at : at + _PROMISES_AT_ONCE]
            marks = ", ".join(["%s"] * len(batch))
            rows = await self._rows(f"SELECT booking_id FROM bookings WHERE booking_id IN ({marks})", *batch)  # noqa: S608 - marks only
            decided.update(booking_id for (booking_id,) in rows)
        return [
            Finding(Kind.UNDECIDED, event_id, booking_id, f"PENDING since {since.isoformat()}")
            for booking_id, since in promised.items()
            if booking_id not in decided
        ]

    async def _rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        async with self._db.transaction() as tx:
            return await tx.fetch_all(sql, args or None)


class Auditor:
    """Runs the audit again and again, and shows it as metrics."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def run(self) -> None:
        """Audits until cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            export(await self._audit.run())
            took = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(AUDIT_EVERY.total_seconds(), took * _REST))


def export(report: AuditReport) -> None:
    """Sets the gauges that must read 0, and logs what contradicts them."""
    counts = report.counts()
    metrics.OVERSOLD_TICKETS.set(counts[Kind.OVERSOLD])
    metrics.LEAKED_HOLDS.set(counts[Kind.LEAKED])
    metrics.PAID_WITHOUT_TICKET.set(counts[Kind.PAID_WITHOUT_TICKET])
    metrics.UNDECIDED_BOOKINGS.set(counts[Kind.UNDECIDED])
    for finding in report.findings:
        fields = {"kind": finding.kind, "event_id": finding.event_id, "subject": finding.subject}
        _log.error("audit: %s", finding.detail, extra={"fields": fields})


def _range(event_id: int) -> tuple[int, int]:
    return ticket_id(event_id, 0), ticket_id(event_id, (1 << SEAT_BITS) - 1)


def lines(report: AuditReport) -> Iterable[str]:
    """The report for people: a line per finding, then the numbers."""
    for each in report.findings:
        yield f"{each.kind}: event {each.event_id}, {each.subject}: {each.detail}"
    numbers = ", ".join(f"{name} {count}" for name, count in report.counts().items())
    yield f"{len(report.event_ids)} events: {numbers}"
