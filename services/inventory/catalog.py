"""Sale events and seat maps in MySQL, read at most every two seconds per event."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.common.mysql import Database, DuplicateKey, Transaction
from services.inventory import seatmap
from services.inventory.domain import EventNotFound, Money, SaleEvent, ticket_id
from services.inventory.fresh import Fresh
from services.inventory.ledger.rows import to_aware, to_decimal, to_naive
from services.inventory.seatmap import SeatMap

# How old what we say about an event may be: opening times are set long before.
_EVENT_AGE: Final = timedelta(seconds=2)
_LIST_AGE: Final = timedelta(seconds=1)
# While MySQL is away reservations go on, and wait in the event log: what was known of the sale is enough for them.
_BRIDGE: Final = timedelta(minutes=10)
# Seat maps are immutable.
_MAP_AGE: Final = timedelta(days=1)
_MAPS: Final = 64
_TICKETS_PER_STATEMENT: Final = 5_000

_COLUMNS: Final = (
    "event_id, name, venue, start_time, sale_open_time, sale_close_time, currency, tickets_per_person, "
    "seat_map_version, seats_total, published"
)
_BY_ID: Final = f"SELECT {_COLUMNS} FROM events WHERE event_id = %s"  # noqa: S608 - constants only
_PAGE: Final = (
    f"SELECT {_COLUMNS} FROM events WHERE published AND (sale_open_time, event_id) > (%s, %s) "  # noqa: S608 - constants only
    "ORDER BY sale_open_time, event_id LIMIT %s"
)
_INSERT: Final = f"INSERT INTO events ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - constants only
_INSERT_TICKETS: Final = "INSERT INTO tickets (id, event_id, price) VALUES (%s, %s, %s)"

FIRST_PAGE: Final = (datetime(1970, 1, 1, tzinfo=UTC), 0)


@dataclass(frozen=True, slots=True)
class Sale:
    """An event and the map of its hall."""

    event: SaleEvent
    seat_map: SeatMap


class Catalog:
    """Events and seat maps; what it answers about an event may be two seconds old, ten minutes while MySQL is away."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sales = Fresh(self._read_sale, _EVENT_AGE, bridge=_BRIDGE)
        self._maps = Fresh(self._read_map, _MAP_AGE, most=_MAPS)
        self._pages = Fresh(self._read_page, _LIST_AGE, bridge=_BRIDGE, most=_MAPS)

    async def sale(self, event_id: int) -> Sale:
        """A published event with its seat map. Raises EventNotFound."""
        sale = await self._sales.get(event_id)
        if not sale.event.published:
            raise EventNotFound
        return sale

    async def sales(self, page_size: int, after: tuple[datetime, int] = FIRST_PAGE) -> Sequence[Sale]:
        """Published events by opening time and id, those behind `after`."""
        return await self._pages.get((page_size, *after))

    async def _read_sale(self, event_id: int) -> Sale:
        async with self._db.transaction() as tx:
            row = await tx.fetch_one(_BY_ID, (event_id,))
        if row is None:
            raise EventNotFound
        return await self._with_map(_event(row))

    async def _read_page(self, page: tuple[int, datetime, int]) -> list[Sale]:
        page_size, time, event_id = page
        async with self._db.transaction() as tx:
            rows = await tx.fetch_all(_PAGE, (to_naive(time), event_id, page_size))
        return [await self._with_map(_event(row)) for row in rows]

    async def _with_map(self, event: SaleEvent) -> Sale:
        return Sale(event, await self._maps.get(event.seat_map_version))

    async def _read_map(self, version: str) -> SeatMap:
        async with self._db.transaction() as tx:
            row = await tx.fetch_one("SELECT document FROM seat_maps WHERE version = %s", (version,))
        if row is None:
            raise EventNotFound
        return seatmap.parse(row[0])

    async def add(self, event: SaleEvent, document: str) -> int:
        """Adds an event with its map and one ticket per seat, in one transaction; answers the event's id.

        The id of `event` is ignored, and so is what it says about the map.
        """
        seat_map = seatmap.parse(document)
        while True:
            try:
                return await self._db.retrying(lambda tx: _insert(tx, event, seat_map, document))
            except DuplicateKey:
                # Someone else added an event at the same time and took the number.
                continue


async def _insert(tx: Transaction, event: SaleEvent, seat_map: SeatMap, document: str) -> int:
    last = await tx.fetch_one("SELECT MAX(event_id) FROM events")
    event_id = (last[0] or 0) + 1 if last else 1
    await tx.execute(_INSERT, (event_id, *_columns(event, seat_map)))
    await tx.execute("INSERT IGNORE INTO seat_maps (version, document) VALUES (%s, %s)", (seat_map.version, document))
    rows = list(_tickets(event_id, event.currency, seat_map))
    for start in range(0, len(rows), _TICKETS_PER_STATEMENT):
        await tx.execute_many(_INSERT_TICKETS, rows[start : start + _TICKETS_PER_STATEMENT])
    return event_id


def _tickets(event_id: int, currency: str, seat_map: SeatMap) -> Iterable[tuple[int, int, Decimal]]:
    for section in seat_map.sections:
        price = to_decimal(Money(section.tier.price, currency))
        for index in range(section.first_index, section.first_index + section.seat_count):
            yield ticket_id(event_id, index), event_id, price


def _columns(event: SaleEvent, seat_map: SeatMap) -> tuple[Any, ...]:
    return (
        event.name,
        event.venue,
        to_naive(event.start_time),
        to_naive(event.sale_open_time),
        to_naive(event.sale_close_time),
        event.currency,
        event.tickets_per_person,
        seat_map.version,
        seat_map.seats_total,
        event.published,
    )


def _event(row: tuple[Any, ...]) -> SaleEvent:
    event_id, name, venue, start, opens, closes, currency, per_person, version, seats_total, published = row
    return SaleEvent(
        event_id=event_id,
        name=name,
        venue=venue,
        start_time=to_aware(start),
        sale_open_time=to_aware(opens),
        sale_close_time=to_aware(closes),
        currency=currency,
        tickets_per_person=per_person,
        seat_map_version=version,
        seats_total=seats_total,
        published=bool(published),
    )
