import asyncio
import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.auth import store as store_module
from services.auth.authentication import Authentication, Registration
from services.auth.domain import (
    EmailTaken,
    RefreshToken,
    RefreshTokenReused,
    Role,
    SessionEnded,
    new_password,
    normalise_email,
)
from services.auth.passwords import Passwords
from services.auth.store import Accounts, Sessions
from services.common.errors import Unavailable
from services.common.mysql import Database, DatabaseUnavailable, open_database
from services.common.redis import open_redis
from tests.auth.credentials import PASSWORD
from tests.support import without_guard

RACERS = 20


async def _signed_in(authentication: Authentication, email: str) -> str:
    _, tokens = await authentication.sign_up(email, PASSWORD)
    return tokens.refresh_token


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(
    authentication: Authentication, email: str
) -> None:
    first = await _signed_in(authentication, email)
    second = (await authentication.refresh(first)).refresh_token
    third = (await authentication.refresh(second)).refresh_token
    with pytest.raises(RefreshTokenReused):
        await authentication.refresh(first)
    with pytest.raises(SessionEnded):
        await authentication.refresh(third)


async def _winners_of_a_race(authentication: Authentication, redis: Redis, email: str) -> int:
    """How many of those who use one refresh token at the same time get the next."""
    token = await _signed_in(authentication, email)
    await asyncio.gather(*(redis.ping() for _ in range(RACERS)))  # connected beforehand, they arrive together
    outcomes = await asyncio.gather(*(authentication.refresh(token) for _ in range(RACERS)), return_exceptions=True)
    losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(loser, SessionEnded) for loser in losers)
    return RACERS - len(losers)


async def test_of_concurrent_refreshes_exactly_one_wins(
    authentication: Authentication, redis: Redis, email: str
) -> None:
    assert await _winners_of_a_race(authentication, redis, email) == 1


async def test_control_without_comparing_digests_everyone_wins(
    authentication: Authentication, redis: Redis, email: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if refresh_digest ~= used_digest then"
    without_guard(monkeypatch, tmp_path, store_module, "_ROTATE_SESSION", guard, "if false then")

    assert await _winners_of_a_race(authentication, redis, email) == RACERS


async def test_a_sign_up_without_redis_says_that_the_account_is_made(
    authentication: Authentication, sessions: Sessions, redis: Redis, email: str
) -> None:
    async with open_redis("redis://127.0.0.1:9/0") as away:
        sessions._redis = away
        with pytest.raises(Unavailable, match="sign in"):
            await authentication.sign_up(email, PASSWORD)
    sessions._redis = redis
    with pytest.raises(EmailTaken, match="sign in"):
        await authentication.sign_up(email, PASSWORD)
    account, _ = await authentication.login(email, PASSWORD)
    assert account.email == email


async def test_a_session_ends_by_itself_and_each_refresh_prolongs_it(
    authentication: Authentication, redis: Redis, email: str
) -> None:
    token = RefreshToken.decode(await _signed_in(authentication, email))
    key = f"auth:session:{token.session_id}"
    lifetime = timedelta(days=14) / timedelta(milliseconds=1)
    assert lifetime - 10_000 < await redis.pttl(key) <= lifetime
    await redis.pexpire(key, 60_000)
    tokens = await authentication.refresh(token.encode())
    assert await redis.pttl(key) > lifetime - 10_000
    assert abs(tokens.refresh_expire_time - datetime.now(UTC) - timedelta(days=14)) < timedelta(seconds=10)
    await redis.pexpire(key, 0)
    with pytest.raises(SessionEnded):
        await authentication.refresh(tokens.refresh_token)


async def test_only_digests_are_stored(authentication: Authentication, redis: Redis, email: str) -> None:
    token = RefreshToken.decode(await _signed_in(authentication, email))
    stored = await redis.hgetall(f"auth:session:{token.session_id}")
    assert stored[b"refresh_digest"] == token.digest
    assert token.secret not in stored.values()


async def test_who_has_only_seen_an_access_token_cannot_end_the_session(
    authentication: Authentication, email: str
) -> None:
    token = await _signed_in(authentication, email)
    session_id = RefreshToken.decode(token).session_id
    for handle in (bytes.fromhex(session_id), b"\0" * 16):
        with pytest.raises(SessionEnded):
            await authentication.refresh(base64.urlsafe_b64encode(handle + b"\0" * 32).decode())
    assert await authentication.refresh(token)


async def test_logout_ends_the_session_at_once(authentication: Authentication, email: str) -> None:
    token = await _signed_in(authentication, email)
    for _ in range(2):
        await authentication.logout(RefreshToken.decode(token).session_id)
    with pytest.raises(SessionEnded):
        await authentication.refresh(token)


async def test_a_new_password_ends_sessions_and_new_roles_do_not(
    authentication: Authentication, accounts: Accounts, passwords: Passwords, email: str
) -> None:
    token = await _signed_in(authentication, email)
    registration = Registration(accounts, passwords)
    address = normalise_email(email)
    await registration.ensure(address, new_password(PASSWORD), frozenset({Role.ORGANIZER}))
    token = (await authentication.refresh(token)).refresh_token
    await registration.ensure(address, new_password("another password"), frozenset({Role.ORGANIZER}))
    with pytest.raises(SessionEnded):
        await authentication.refresh(token)
    account, _ = await authentication.login(email, "another password")
    assert account.roles == {Role.ORGANIZER}


async def test_while_mysql_is_away_no_refresh_token_is_spent(
    authentication: Authentication, accounts: Accounts, database: Database, email: str
) -> None:
    token = await _signed_in(authentication, email)
    async with open_database("mysql://nobody:none@127.0.0.1:9/none") as away:
        accounts._database = away
        with pytest.raises(DatabaseUnavailable):
            await authentication.refresh(token)
    accounts._database = database
    assert await authentication.refresh(token)
