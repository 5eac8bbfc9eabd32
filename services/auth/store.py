"""Where accounts and sessions are kept: accounts in MySQL, sessions in Redis."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.auth.domain import (
    Account,
    EmailAddress,
    EmailTaken,
    RefreshToken,
    RefreshTokenReused,
    Role,
    Session,
    SessionEnded,
    SessionId,
    UserId,
)
from services.common.lua import Script
from services.common.mysql import Database, DuplicateKey, Transaction

MIGRATIONS = Path(__file__).parent / "sql"

_LUA = Path(__file__).parent / "lua"
_OPEN_SESSION = Script.load(_LUA / "open_session.lua")
_ROTATE_SESSION = Script.load(_LUA / "rotate_session.lua")

_ACCOUNT = "SELECT id, email, password, password_version, roles, create_time FROM users"


class Accounts:
    """The accounts of everyone. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_email(self, email: EmailAddress) -> Account | None:
        """The account of an address, if there is one."""
        return await self._one(_ACCOUNT + " WHERE email = %s", (email,))

    async def by_id(self, user_id: UserId) -> Account | None:
        """The account with this id, if there is one."""
        return await self._one(_ACCOUNT + " WHERE id = %s", (user_id,))

    async def add(self, email: EmailAddress, password_hash: str, roles: frozenset[Role]) -> Account:
        """Makes an account. Raises EmailTaken; of concurrent calls for one address exactly one succeeds."""

        async def insert(tx: Transaction) -> Account:
            statement = "INSERT INTO users (email, password, roles) VALUES (%s, %s, %s)"
            await tx.execute(statement, (email, password_hash, ",".join(roles)))
            row = await tx.fetch_one(_ACCOUNT + " WHERE email = %s", (email,))
            assert row is not None
            return _account(row)

        try:
            return await self._database.retrying(insert)
        except DuplicateKey:
            raise EmailTaken from None

    async def set_roles(self, user_id: UserId, roles: frozenset[Role]) -> None:
        """Replaces the roles; access tokens carry them from the next refresh on."""
        await self._write("UPDATE users SET roles = %s WHERE id = %s", (",".join(roles), user_id))

    async def set_password(self, user_id: UserId, password_hash: str) -> None:
        """Replaces the password and so ends every session that was opened with the old one."""
        statement = "UPDATE users SET password = %s, password_version = password_version + 1 WHERE id = %s"
        await self._write(statement, (password_hash, user_id))

    async def rehash_password(self, account: Account, password_hash: str) -> None:
        """Stores the same password under a newer hash, unless it was replaced meanwhile."""
        statement = "UPDATE users SET password = %s WHERE id = %s AND password = %s"
        await self._write(statement, (password_hash, account.user_id, account.password_hash))

    async def _one(self, query: str, parameters: Sequence[Any]) -> Account | None:
        async with self._database.transaction() as tx:
            row = await tx.fetch_one(query, parameters)
        return _account(row) if row else None

    async def _write(self, statement: str, parameters: Sequence[Any]) -> None:
        async def write(tx: Transaction) -> None:
            await tx.execute(statement, parameters)

        await self._database.retrying(write)


class Sessions:
    """Living sessions, one Redis hash each. When Redis loses them, people sign in again; nothing else is lost."""

    def __init__(self, redis: Redis, lifetime: timedelta) -> None:
        self._redis = redis
        self._lifetime_ms = lifetime // timedelta(milliseconds=1)

    async def open(self, token: RefreshToken, account: Account) -> datetime:
        """Opens a session whose first refresh token is `token`; answers when it ends unless it is rotated."""
        expire_ms: int = await _OPEN_SESSION.call(
            self._redis,
            keys={"session": _session_key(token.session_id)},
            args={
                "user_id": account.user_id,
                "password_version": account.password_version,
                "refresh_digest": token.digest,
                "lifetime_ms": self._lifetime_ms,
            },
        )
        return _instant(expire_ms)

    async def find(self, session_id: SessionId) -> Session:
        """The living session. Raises SessionEnded."""
        fields = await self._redis.hmget(_session_key(session_id), ["user_id", "password_version"])
        user_id, password_version = fields
        if user_id is None or password_version is None:
            raise SessionEnded
        return Session(session_id, UserId(int(user_id)), int(password_version))

    async def rotate(self, used: RefreshToken, following: RefreshToken) -> datetime:
        """Replaces the refresh token; answers when the session ends. Atomic.

        Raises:
            SessionEnded: there is no such session.
            RefreshTokenReused: `used` was spent before, which has ended the session now.
        """
        rotated, outcome = await _ROTATE_SESSION.call(
            self._redis,
            keys={"session": _session_key(used.session_id)},
            args={"used_digest": used.digest, "next_digest": following.digest, "lifetime_ms": self._lifetime_ms},
        )
        if not rotated:
            raise RefreshTokenReused if outcome == b"REUSED" else SessionEnded
        return _instant(outcome)

    async def end(self, session_id: SessionId) -> None:
        """Ends a session; ending it again changes nothing."""
        await self._redis.delete(_session_key(session_id))


def _session_key(session_id: SessionId) -> bytes:
    return f"auth:session:{session_id}".encode()


def _instant(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def _account(row: Sequence[Any]) -> Account:
    user_id, email, password_hash, password_version, roles, create_time = row
    return Account(
        UserId(user_id),
        EmailAddress(email),
        password_hash,
        password_version,
        frozenset(Role(role) for role in roles.split(",")),
        create_time.replace(tzinfo=UTC),
    )
