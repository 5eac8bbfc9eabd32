"""How migrations are applied: once, in order, whoever starts at the same time."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from services.common.migrations import MigrationRefused, migrate
from services.common.mysql import Database, open_database

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(mysql_url_factory: Callable[[str], str]) -> str:
    return mysql_url_factory("migrations")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE a (id INT PRIMARY KEY);\nINSERT INTO a VALUES (1);\n")
    (tmp_path / "0002_percent.sql").write_text("-- 100 % done; 'quoted'\nCREATE TABLE b (c VARCHAR(9) DEFAULT '%s');")
    return tmp_path


async def _applied(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [name for (name,) in await tx.fetch_all("SELECT name FROM schema_migrations ORDER BY number")]


async def test_migrations_are_applied_once_and_in_order(url: str, folder: Path) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0010_later.sql").write_text("INSERT INTO a VALUES (2);")
        await migrate(database, folder)
        await migrate(database, folder)
        assert await _applied(database) == ["0001_first.sql", "0002_percent.sql", "0010_later.sql"]
        async with database.transaction() as tx:
            assert await tx.fetch_all("SELECT id FROM a ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("0001_first.sql", "CREATE TABLE a (id BIGINT PRIMARY KEY);"),
        ("0002_again.sql", "SELECT 1;"),
        ("first.sql", "SELECT 1;"),
    ],
)
async def test_a_changed_or_misnamed_migration_is_refused(url: str, folder: Path, name: str, sql: str) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / name).write_text(sql)
        with pytest.raises(MigrationRefused):
            await migrate(database, folder)


async def test_a_migration_before_an_applied_one_is_refused(url: str, folder: Path) -> None:
    (folder / "0001_first.sql").rename(folder / "0003_first.sql")
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0001_first.sql").write_text("SELECT 1;")
        with pytest.raises(MigrationRefused):
            await migrate(database, folder)


async def test_an_older_release_starts_on_a_newer_schema(url: str, folder: Path) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0002_percent.sql").unlink()
        await migrate(database, folder)
        assert await _applied(database) == ["0001_first.sql", "0002_percent.sql"]


async def test_a_failed_migration_is_not_recorded(url: str, folder: Path) -> None:
    (folder / "0003_wrong.sql").write_text("INSERT INTO a VALUES (3); SELEKT 1;")
    async with open_database(url) as database:
        with pytest.raises(pymysql.err.ProgrammingError):
            await migrate(database, folder)
        assert await _applied(database) == ["0001_first.sql", "0002_percent.sql"]


PROGRAM = """
import asyncio, pathlib, sys
from services.common.migrations import migrate
from services.common.mysql import open_database

async def main():
    async with open_database(sys.argv[1]) as database:
        await migrate(database, pathlib.Path(sys.argv[2]))

asyncio.run(main())
"""


async def test_two_processes_that_start_together_apply_each_once(url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_slow.sql").write_text("CREATE TABLE a (id INT); SELECT SLEEP(0.5); INSERT INTO a VALUES (1);")
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url, str(tmp_path)]
    starts = [asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, check=False) for _ in range(2)]
    for outcome in await asyncio.gather(*starts):
        assert outcome.returncode == 0, outcome.stderr.decode()
    async with open_database(url) as database, database.transaction() as tx:
        assert await tx.fetch_all("SELECT id FROM a") == [(1,)]
