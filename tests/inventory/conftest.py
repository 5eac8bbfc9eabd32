"""A database of inventory and a small sale in it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.common.mysql import Database, open_database
from tests.inventory.sale import Sale

MIGRATIONS = Path(__file__).parents[2] / "services" / "inventory" / "sql"


@pytest.fixture
async def inventory_db(mysql_url_factory: Callable[[str], str]) -> AsyncIterator[Database]:
    """A migrated database, empty."""
    async with open_database(mysql_url_factory("inventory"), pool_size=60) as db:
        await db.migrate(MIGRATIONS)
        yield db


@pytest.fixture
async def sale(inventory_db: Database) -> Sale:
    """An open sale of forty seats, four a person."""
    opened = Sale(inventory_db)
    await opened.create()
    return opened
