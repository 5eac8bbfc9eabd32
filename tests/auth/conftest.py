"""One database for the area, cheap hashing, and keys made once: what is slow is not what these tests are about."""

import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from deploy.local.site import rsa_key
from services.auth.authentication import Authentication
from services.auth.keys import SigningKeys
from services.auth.passwords import Passwords
from services.auth.store import MIGRATIONS, Accounts, Sessions
from services.common.clock import SystemClock
from services.common.migrations import migrate
from services.common.mysql import Database, open_database
from services.common.redis import open_redis
from tests.auth.credentials import cheap_hasher

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def key_pems() -> tuple[str, str]:
    return rsa_key(), rsa_key()


@pytest.fixture(scope="session")
def key_file(key_pems: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("auth") / "signing-key.pem"
    file.write_text(key_pems[0])
    return file


@pytest.fixture(scope="session")
def mysql_url(mysql_url_factory: Callable[[str], str]) -> str:
    return mysql_url_factory("auth")


@pytest.fixture
def email() -> str:
    """An address that no other test uses."""
    return f"buyer{next(_numbers)}@example.com"


@pytest.fixture
async def database(mysql_url: str) -> AsyncIterator[Database]:
    async with open_database(mysql_url) as opened:
        await migrate(opened, MIGRATIONS)
        yield opened


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as client:
        yield client


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    opened = Passwords(cheap_hasher(), threads=2, max_waiting=64)
    yield opened
    await opened.close()


@pytest.fixture
def sessions(redis: Redis) -> Sessions:
    return Sessions(redis, timedelta(days=14))


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database)


@pytest.fixture
def authentication(
    accounts: Accounts, sessions: Sessions, passwords: Passwords, key_pems: tuple[str, str]
) -> Authentication:
    return Authentication(
        accounts=accounts,
        sessions=sessions,
        passwords=passwords,
        keys=SigningKeys.parse(key_pems[0].encode()),
        clock=SystemClock(),
        access_lifetime=timedelta(minutes=15),
    )
