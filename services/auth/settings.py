"""What auth reads from the environment."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, FilePath

from services.common.settings import CommonSettings, MysqlUrl, RedisUrl


class AccountSettings(CommonSettings):
    """What making an account needs; the create-user command reads no more."""

    # mysql://user:password@host:port/database, a database of auth's own.
    mysql_url: MysqlUrl
    # argon2id, one of the equivalent minimums of the OWASP Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane.
    # One hash takes 20 to 40 ms of a core here. A change takes effect for each account at its next login.
    argon2_memory_kib: Annotated[int, Field(ge=8)] = 19 * 1024
    argon2_passes: Annotated[int, Field(ge=1)] = 2
    argon2_lanes: Annotated[int, Field(ge=1)] = 1
    # Hashes at the same time: as many as the cores that sign-ins may take.
    argon2_threads: Annotated[int, Field(ge=1)] = 2
    # Hashes in line: two threads work off 128 in about 3 s, inside the 5 s that the edge lets a call take.
    argon2_waiting: Annotated[int, Field(ge=0)] = 128


class AuthSettings(AccountSettings):
    """What the service needs."""

    # redis://host:port/db of the sessions.
    redis_url: RedisUrl
    # PEM file with RSA private keys: the first signs access tokens, all are published.
    signing_key_file: FilePath
    # Of an access token, as the contract says: the time for which a logout or a lost role stays unnoticed.
    access_lifetime: timedelta = timedelta(minutes=15)
    # Of a session that is not refreshed: two weeks, so that a buyer of last week's sale is still signed in.
    session_lifetime: timedelta = timedelta(days=14)
