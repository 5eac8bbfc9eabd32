"""Sign-up, login, refresh and logout, step by step."""

from datetime import datetime, timedelta
from uuid import uuid4

from redis.exceptions import RedisError

from services.auth.domain import (
    PASSWORD_LENGTH,
    Account,
    BadCredentials,
    EmailAddress,
    Password,
    RefreshToken,
    Role,
    SessionEnded,
    SessionId,
    Tokens,
    Unacceptable,
    UserId,
    new_password,
    normalise_email,
    normalise_password,
)
from services.auth.keys import SigningKeys
from services.auth.passwords import Passwords
from services.auth.store import Accounts, Sessions
from services.common.clock import Clock
from services.common.errors import Unavailable

ISSUER = "boxoffice"


class Authentication:
    """What accounts can do with their sessions."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        sessions: Sessions,
        passwords: Passwords,
        keys: SigningKeys,
        clock: Clock,
        access_lifetime: timedelta,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._keys = keys
        self._clock = clock
        self._access_lifetime = access_lifetime

    async def sign_up(self, email: str, password: str) -> tuple[Account, Tokens]:
        """A new account of a buyer and its first session.

        Raises Unacceptable, EmailTaken, Unavailable. The last may come with an account made (docs/decisions/0036).
        """
        account = await Registration(self._accounts, self._passwords).add(
            normalise_email(email), new_password(password), frozenset({Role.BUYER})
        )
        try:
            return account, await self._open_session(account)
        except RedisError as error:
            raise Unavailable("the account is made: sign in, in a moment") from error

    async def login(self, email: str, password: str) -> tuple[Account, Tokens]:
        """A new session of an existing account. Raises BadCredentials, Unavailable."""
        attempt = normalise_password(password)
        if len(attempt) >= PASSWORD_LENGTH.stop:
            raise BadCredentials
        account = await self._find(email)
        if not await self._passwords.matches(account.password_hash if account else None, attempt) or account is None:
            raise BadCredentials
        await self._renew_hash(account, attempt)
        return account, await self._open_session(account)

    async def refresh(self, text: str) -> Tokens:
        """The next pair of tokens. Raises SessionEnded.

        The account is read first: when MySQL does not answer, the refresh token is not yet spent and can be used again.
        """
        used = RefreshToken.decode(text)
        session = await self._sessions.find(used.session_id)
        account = await self._accounts.by_id(session.user_id)
        if account is None or account.password_version != session.password_version:
            await self._sessions.end(session.session_id)
            raise SessionEnded
        following = used.rotated()
        return self._tokens(account, following, await self._sessions.rotate(used, following))

    async def logout(self, session_id: SessionId) -> None:
        """Ends the session. Idempotent."""
        await self._sessions.end(session_id)

    async def account(self, user_id: UserId) -> Account:
        """The caller's account. Raises SessionEnded when it is gone."""
        account = await self._accounts.by_id(user_id)
        if account is None:
            raise SessionEnded
        return account

    def jwks(self) -> list[dict[str, str]]:
        """The public keys of access tokens."""
        return self._keys.jwks()

    async def _find(self, email: str) -> Account | None:
        try:
            return await self._accounts.by_email(normalise_email(email))
        except Unacceptable:
            return None

    async def _renew_hash(self, account: Account, password: Password) -> None:
        if self._passwords.outdated(account.password_hash):
            await self._accounts.rehash_password(account, await self._passwords.hash(password))

    async def _open_session(self, account: Account) -> Tokens:
        token = RefreshToken.first()
        return self._tokens(account, token, await self._sessions.open(token, account))

    def _tokens(self, account: Account, refresh: RefreshToken, refresh_expire_time: datetime) -> Tokens:
        issued = self._clock.now().replace(microsecond=0)
        expires = issued + self._access_lifetime
        claims = {
            "iss": ISSUER,
            "sub": str(account.user_id),
            "sid": refresh.session_id,
            "roles": sorted(account.roles),
            "iat": int(issued.timestamp()),
            "exp": int(expires.timestamp()),
            "jti": uuid4().hex,
        }
        return Tokens(self._keys.sign(claims), expires, refresh.encode(), refresh_expire_time)


class Registration:
    """Makes accounts: for people who sign up, and for the operator's command."""

    def __init__(self, accounts: Accounts, passwords: Passwords) -> None:
        self._accounts = accounts
        self._passwords = passwords

    async def add(self, email: EmailAddress, password: Password, roles: frozenset[Role]) -> Account:
        """A new account. Raises EmailTaken, Unavailable."""
        return await self._accounts.add(email, await self._passwords.hash(password), roles)

    async def ensure(self, email: EmailAddress, password: Password, roles: frozenset[Role]) -> UserId:
        """The account of this address, made or changed so that it has this password and exactly these roles."""
        account = await self._accounts.by_email(email)
        if account is None:
            return (await self.add(email, password, roles)).user_id
        if account.roles != roles:
            await self._accounts.set_roles(account.user_id, roles)
        if not await self._passwords.matches(account.password_hash, password):
            await self._accounts.set_password(account.user_id, await self._passwords.hash(password))
        return account.user_id
