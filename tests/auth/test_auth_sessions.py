import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from services.auth.authentication import Authentication, Registration
from services.auth.domain import RefreshToken, RefreshTokenReused, Role, SessionEnded, new_password, normalise_email
from services.auth.passwords import Passwords
from services.auth.store import Accounts, Sessions
from services.common.mysql import Database, DatabaseUnavailable, open_database
from tests.auth.credentials import PASSWORD

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


async def test_of_concurrent_refreshes_exactly_one_wins(
    authentication: Authentication, redis: Redis, email: str
) -> None:
    token = await _signed_in(authentication, email)
    await asyncio.gather(*(redis.ping() for _ in range(RACERS)))  # connected beforehand, they arrive together
    outcomes = await asyncio.gather(*(authentication.refresh(token) for _ in range(RACERS)), return_exceptions=True)
    losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(losers) == RACERS - 1
    assert all(isinstance(loser, SessionEnded) for loser in losers)


class _TwoStepSessions(Sessions):
    """Compares and replaces in two steps, as it would be without the script; all racers compare before one replaces."""

    compared = asyncio.Barrier(RACERS)

    async def rotate(self, used: RefreshToken, following: RefreshToken) -> datetime:
        key = f"auth:session:{used.session_id}"
        stored = await self._redis.hget(key, "refresh_digest")
        await self.compared.wait()
        if stored != used.digest:
            await self._redis.delete(key)
            raise SessionEnded
        await self._redis.hset(key, "refresh_digest", following.digest)
        return datetime.now(UTC)


async def test_control_without_the_script_several_win(authentication: Authentication, redis: Redis, email: str) -> None:
    token = RefreshToken.decode(await _signed_in(authentication, email))
    unguarded = _TwoStepSessions(redis, timedelta(days=14))
    outcomes = await asyncio.gather(
        *(unguarded.rotate(token, token.rotated()) for _ in range(RACERS)), return_exceptions=True
    )
    assert [isinstance(outcome, datetime) for outcome in outcomes] == [True] * RACERS


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
