"""Numbered, forward-only migrations: `NNNN_name.sql`, each applied once, whoever starts at the same time.

The server commits each DDL statement by itself, so that a crash can leave a file half applied; it is then run again
as a whole. Write files that stand that: `CREATE TABLE IF NOT EXISTS`, one matter per file.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from services.common.mysql import Database, DatabaseUnavailable, LockedSession

LOCK_SECONDS = 60
STATEMENT_SECONDS = 3600.0
"""Changing a large table takes as long as it takes; only a server that died meanwhile ends the wait."""
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  number INT NOT NULL PRIMARY KEY,
  name VARCHAR(200) NOT NULL,
  checksum CHAR(64) CHARACTER SET ascii NOT NULL,
  apply_time TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""


class MigrationRefused(Exception):
    """The migrations on disk do not continue those that were applied."""


@dataclass(frozen=True)
class _Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


async def migrate(database: Database, folder: Path) -> None:
    """Applies what is missing, in order, under an advisory lock.

    Files applied by a newer release and unknown here are left alone: a release can be rolled back.

    Raises:
        MigrationRefused: a file has a bad or repeated number, has changed since it was applied, or is new but comes
            before one that was applied.
        DatabaseUnavailable: the database does not answer, or another process holds the lock for over a minute.
    """
    wanted = _read(folder)
    async with database.locked("migrate", LOCK_SECONDS) as session:
        if session is None:
            raise DatabaseUnavailable("another process is still migrating")
        for migration in _missing(wanted, await _applied(session)):
            await _apply(session, migration)


def _read(folder: Path) -> list[_Migration]:
    found: dict[int, _Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.match(path.name)
        if not match:
            raise MigrationRefused(f"{path.name} is not named NNNN_name.sql")
        number = int(match[1])
        if number in found:
            raise MigrationRefused(f"{path.name} has the number of {found[number].name}")
        found[number] = _Migration(number, path.name, path.read_text(encoding="utf-8"))
    return list(found.values())


async def _applied(session: LockedSession) -> dict[int, str]:
    async with session.transaction() as tx:
        await tx.execute(_TABLE)
        return dict(await tx.fetch_all("SELECT number, checksum FROM schema_migrations"))


def _missing(wanted: list[_Migration], applied: dict[int, str]) -> list[_Migration]:
    for migration in wanted:
        if applied.get(migration.number, migration.checksum) != migration.checksum:
            raise MigrationRefused(f"{migration.name} has changed since it was applied")
    missing = [migration for migration in wanted if migration.number not in applied]
    if missing and applied and missing[0].number < max(applied):
        raise MigrationRefused(f"{missing[0].name} comes before what was applied already")
    return missing


async def _apply(session: LockedSession, migration: _Migration) -> None:
    async with session.transaction(STATEMENT_SECONDS) as tx:
        await tx.execute_script(migration.sql)
        await tx.execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
            (migration.number, migration.name, migration.checksum),
        )
