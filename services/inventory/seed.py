"""`python -m services.inventory seed`: puts an event on sale, without a running service."""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from services.common.migrations import migrate
from services.common.mysql import open_database
from services.inventory import seatmap
from services.inventory.catalog import Catalog
from services.inventory.domain import CURRENCY, MAX_TICKETS, SEAT_BITS, SaleEvent
from services.inventory.settings import SeedSettings

MIGRATIONS: Final = Path(__file__).parent / "sql"
_WEEK: Final = timedelta(days=7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    hall = parser.add_mutually_exclusive_group()
    hall.add_argument("--hall", choices=seatmap.hall_names(), default="theatre", help="a hall that comes with us")
    hall.add_argument("--seats", type=_seats, help="or a hall of exactly so many seats, in rows of 20")
    parser.add_argument("--name", default="Boxoffice Live")
    parser.add_argument("--venue", default="", help="default: the name of the hall")
    parser.add_argument("--opens-in", type=float, default=0.0, metavar="SECONDS", help="may be negative")
    parser.add_argument("--closes-in", type=float, default=_WEEK.total_seconds(), metavar="SECONDS")
    parser.add_argument("--tickets-per-person", type=int, choices=range(1, MAX_TICKETS + 1), default=4)


def _seats(text: str) -> int:
    seats = int(text)
    if not 1 <= seats <= 1 << SEAT_BITS:
        raise argparse.ArgumentTypeError(f"1 to {1 << SEAT_BITS}")
    return seats


async def seed(settings: SeedSettings, arguments: argparse.Namespace) -> int:
    """Adds the event that the arguments describe; answers its id."""
    document = seatmap.generated_document(arguments.seats) if arguments.seats else seatmap.hall_document(arguments.hall)
    async with open_database(settings.mysql_url) as db:
        await migrate(db, MIGRATIONS)
        return await Catalog(db).add(_event(arguments, seatmap.parse(document)), document)


def _event(arguments: argparse.Namespace, hall: seatmap.SeatMap) -> SaleEvent:
    now = datetime.now(tz=UTC)
    closes = now + timedelta(seconds=arguments.closes_in)
    return SaleEvent(
        event_id=0,
        name=arguments.name,
        venue=arguments.venue or hall.name,
        start_time=closes + _WEEK,
        sale_open_time=now + timedelta(seconds=arguments.opens_in),
        sale_close_time=closes,
        currency=CURRENCY,
        tickets_per_person=arguments.tickets_per_person,
        seat_map_version=hall.version,
        seats_total=hall.seats_total,
        published=True,
    )
