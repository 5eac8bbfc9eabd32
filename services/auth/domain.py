"""Accounts, addresses, passwords and refresh tokens as values, and what can be wrong with them."""

import base64
import binascii
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType

UserId = NewType("UserId", int)
SessionId = NewType("SessionId", str)
EmailAddress = NewType("EmailAddress", str)
"""A checked address in the one spelling under which accounts are kept."""
Password = NewType("Password", str)
"""A password in normal form, not yet hashed. Never logged, never stored."""

MAX_EMAIL = 254  # RFC 3696 erratum 1690: the longest address that fits into a mail command
MAX_LOCAL_PART = 64  # RFC 5321, 4.5.3.1.1
PASSWORD_LENGTH = range(10, 129)  # characters; NIST SP 800-63B asks for at least 8 and for long ones to be accepted

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")  # dot-string of RFC 5321; quoted strings are not in use
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}")


class Role(StrEnum):
    """What an account may do; spelled as in the access token."""

    BUYER = "buyer"
    ORGANIZER = "organizer"
    OPERATOR = "operator"


class Unacceptable(ValueError):
    """A field has a value that no account can have."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.metadata: Mapping[str, str] = {"field": field}


class EmailTaken(Exception):
    """The address already has an account."""

    reason = "EMAIL_TAKEN"

    def __init__(self) -> None:
        super().__init__("this address already has an account: sign in")


class BadCredentials(Exception):
    """Address and password do not match; which of them is wrong is not told."""

    reason = "BAD_CREDENTIALS"

    def __init__(self) -> None:
        super().__init__("e-mail address or password is wrong")


class SessionEnded(Exception):
    """The refresh token does not belong to a living session; why is not told."""

    reason = "SESSION_ENDED"

    def __init__(self) -> None:
        super().__init__("the session has ended: sign in again")


class RefreshTokenReused(SessionEnded):
    """A spent refresh token came back, which has ended its session. Callers are told no more than SESSION_ENDED."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it is stored."""

    user_id: UserId
    email: EmailAddress
    password_hash: str
    password_version: int
    roles: frozenset[Role]
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A living session. It ends when its account gets another password, since `password_version` then differs."""

    session_id: SessionId
    user_id: UserId
    password_version: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a signed-in caller holds."""

    access_token: str
    access_expire_time: datetime
    refresh_token: str
    refresh_expire_time: datetime


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """The opaque token of one rotation of one session.

    The handle stays for the life of the session, the secret changes with each rotation. The session id, which access
    tokens show to everyone, is a digest of the handle: so a token with a right handle and a wrong secret was issued by
    us and is spent, never guessed by someone who saw an access token, and ending the session is the right answer.
    """

    handle: bytes
    secret: bytes

    HANDLE_BYTES = 16
    SECRET_BYTES = 32

    @classmethod
    def first(cls) -> "RefreshToken":
        """Opens a new session."""
        return cls(secrets.token_bytes(cls.HANDLE_BYTES), secrets.token_bytes(cls.SECRET_BYTES))

    @classmethod
    def decode(cls, text: str) -> "RefreshToken":
        """Reads what `encode` wrote. Raises SessionEnded for anything else, even another spelling of the same bytes."""
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise SessionEnded from None
        token = cls(raw[: cls.HANDLE_BYTES], raw[cls.HANDLE_BYTES :])
        if len(token.secret) != cls.SECRET_BYTES or token.encode() != text:
            raise SessionEnded
        return token

    def encode(self) -> str:
        """64 characters of base64url."""
        return base64.urlsafe_b64encode(self.handle + self.secret).decode()

    def rotated(self) -> "RefreshToken":
        """The next token of the same session."""
        return replace(self, secret=secrets.token_bytes(self.SECRET_BYTES))

    @property
    def session_id(self) -> SessionId:
        """Names the session in Redis and in access tokens; the handle cannot be found from it."""
        return SessionId(hashlib.sha256(b"boxoffice.session" + self.handle).hexdigest()[:32])

    @property
    def digest(self) -> bytes:
        """What is stored in place of the secret. A plain hash is enough for 256 random bits."""
        return hashlib.sha256(self.secret).digest()


def normalise_email(text: str) -> EmailAddress:
    """Checks an address and gives it the spelling under which it is kept: lower case, domain in ASCII (IDNA).

    Raises:
        Unacceptable: it is not an address that mail can be sent to.
    """
    local_part, at, domain = unicodedata.normalize("NFKC", text).strip().lower().rpartition("@")
    address = f"{local_part}@{_ascii_domain(domain)}"
    if not at or len(address) > MAX_EMAIL or len(local_part) > MAX_LOCAL_PART or not _LOCAL_PART.fullmatch(local_part):
        raise Unacceptable("email", "this is not an e-mail address")
    return EmailAddress(address)


def _ascii_domain(domain: str) -> str:
    try:
        spelled = domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        spelled = ""
    if not _DOMAIN.fullmatch(spelled):
        raise Unacceptable("email", "this is not an e-mail address")
    return spelled


def normalise_password(text: str) -> Password:
    """The form in which a password is hashed: NFKC, since keyboards compose Hangul and accents differently."""
    return Password(unicodedata.normalize("NFKC", text))


def new_password(text: str) -> Password:
    """Checks a password that someone wants to have.

    Raises:
        Unacceptable: it is shorter than 10 or longer than 128 characters.
    """
    password = normalise_password(text)
    if len(password) not in PASSWORD_LENGTH:
        raise Unacceptable("password", f"{PASSWORD_LENGTH.start} to {PASSWORD_LENGTH.stop - 1} characters are needed")
    return password
