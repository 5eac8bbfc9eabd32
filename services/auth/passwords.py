"""Hashing of passwords with argon2id, beside the event loop."""

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from services.auth.domain import Password
from services.common import metrics
from services.common.errors import Unavailable

_Result = TypeVar("_Result")


class Passwords:
    """Hashes and checks passwords in a few threads, and refuses when too many are waiting.

    One hash costs tens of milliseconds of a core and 19 MiB, so the threads are the limit of what logins can take from
    the machine, and the length of the line keeps each wait below the deadline of the call.
    """

    def __init__(self, hasher: argon2.PasswordHasher, threads: int, max_waiting: int) -> None:
        self._hasher = hasher
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._places = threads + max_waiting
        self._under_way = 0
        # Checked when there is no account, so that an unknown address costs what a wrong password costs.
        self._nobody = hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: Password) -> str:
        """A new salted hash as a PHC string. Raises Unavailable when too many are waiting."""
        return await self._run("hash", lambda: self._hasher.hash(password))

    async def matches(self, stored: str | None, password: Password) -> bool:
        """Whether the password belongs to the stored hash; None does the same work and answers False."""
        return await self._run("verify", lambda: self._verify(stored or self._nobody, password)) and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def close(self) -> None:
        """Lets the hash under way finish and drops those that wait."""
        await asyncio.get_running_loop().run_in_executor(None, lambda: self._pool.shutdown(cancel_futures=True))

    def _verify(self, stored: str, password: Password) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, operation: str, work: Callable[[], _Result]) -> _Result:
        if self._under_way >= self._places:
            raise Unavailable("too many people are signing in at this moment", retry_after_ms=1000)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, operation, work)
        finally:
            self._under_way -= 1


def _timed(operation: str, work: Callable[[], _Result]) -> _Result:
    started = time.perf_counter()
    result = work()
    metrics.PASSWORD_DURATION.labels(operation).observe(time.perf_counter() - started)
    return result
