"""The seed command, as an operator runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.common.mysql import Database, open_database
from services.inventory.catalog import Catalog
from services.inventory.domain import seat_of_ticket

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mysql_url(mysql_url_factory: Callable[[str], str]) -> str:
    return mysql_url_factory("seed")


def seed(mysql_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.inventory", "seed", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "generated"), "BOXOFFICE_MYSQL_URL": mysql_url},
        capture_output=True,
        text=True,
        check=False,
    )


async def rows(db: Database, sql: str) -> list[tuple[object, ...]]:
    async with db.transaction() as tx:
        return await tx.fetch_all(sql)


async def test_it_prints_the_event_id_alone_and_the_event_is_on_sale(mysql_url: str) -> None:
    done = seed(mysql_url, "--seats", "45", "--name", "Demo Night", "--opens-in", "-5", "--closes-in", "60")
    assert (done.returncode, done.stderr) == (0, "")
    event_id = int(done.stdout)
    assert done.stdout == f"{event_id}\n"
    async with open_database(mysql_url) as db:
        sale = await Catalog(db).sale(event_id)
        assert (sale.event.name, sale.event.seats_total, sale.seat_map.seats_total) == ("Demo Night", 45, 45)
        sale.event.check_on_sale(datetime.now(tz=UTC))
        assert timedelta() < sale.event.sale_close_time - datetime.now(tz=UTC) < timedelta(seconds=61)
        tickets = await rows(db, "SELECT id, status, booking_id FROM tickets ORDER BY id")
        assert [seat_of_ticket(int(str(row[0]))) for row in tickets] == list(range(45))
        assert {row[1:] for row in tickets} == {("AVAILABLE", None)}


async def test_every_hall_can_be_seeded_and_prices_are_in_its_tickets(mysql_url: str) -> None:
    ids = [int(seed(mysql_url, "--hall", hall).stdout) for hall in ("club", "arena")]
    assert ids == [1, 2]
    async with open_database(mysql_url) as db:
        found = await rows(
            db, "SELECT event_id, COUNT(*), MIN(price), MAX(price) FROM tickets GROUP BY event_id ORDER BY event_id"
        )
        assert [tuple(int(str(value).split(".")[0]) for value in row) for row in found] == [
            (1, 60, 44_000, 66_000),
            (2, 20_000, 132_000, 154_000),
        ]


@pytest.mark.parametrize("arguments", [["--hall", "nowhere"], ["--seats", "0"], ["--hall", "club", "--seats", "5"]])
def test_a_wrong_argument_is_told_and_nothing_is_printed(arguments: list[str]) -> None:
    done = seed("mysql://nobody:nothing@127.0.0.1:1/none", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error" in done.stderr
