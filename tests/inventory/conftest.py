"""A database of inventory and a small sale in it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.common.migrations import migrate
from services.common.mysql import Database, open_database
from services.common.redis import open_redis
from tests.inventory.sale import EVENT, Sale
from tests.inventory.shop import Shop

MIGRATIONS = Path(__file__).parents[2] / "services" / "inventory" / "sql"


@pytest.fixture
def inventory_url(mysql_url_factory: Callable[[str], str]) -> str:
    """The URL of the database below."""
    return mysql_url_factory("inventory")


@pytest.fixture
async def inventory_db(inventory_url: str) -> AsyncIterator[Database]:
    """A migrated database, empty."""
    async with open_database(inventory_url, pool_size=60) as db:
        await migrate(db, MIGRATIONS)
        yield db


@pytest.fixture
async def sale(inventory_db: Database) -> Sale:
    """An open sale of forty seats, four a person."""
    opened = Sale(inventory_db)
    await opened.create()
    return opened


@pytest.fixture
async def shop(sale: Sale, redis_url: str) -> AsyncIterator[Shop]:
    """The sale with its seats in Redis, a provider, and everything that works on them, none of it running."""
    async with open_redis(redis_url) as redis:
        opened = Shop(sale, redis)
        await opened.holds.rebuild(EVENT)
        yield opened
        await opened.gateway.aclose()
