import asyncio
import time
import unicodedata

import pytest
from prometheus_client import REGISTRY

from services.auth.authentication import Authentication
from services.auth.domain import BadCredentials, new_password
from services.auth.passwords import Passwords
from services.auth.store import Accounts
from services.common.errors import Unavailable
from tests.auth.credentials import PASSWORD, cheap_hasher


def _verifications() -> float:
    name = "boxoffice_auth_password_duration_seconds_count"
    return REGISTRY.get_sample_value(name, {"operation": "verify"}) or 0.0


async def test_an_unknown_address_costs_what_a_wrong_password_costs(authentication: Authentication, email: str) -> None:
    await authentication.sign_up(email, PASSWORD)
    work = []
    for address, password in ((email, "wrong password"), ("nobody@example.com", PASSWORD), ("no address", PASSWORD)):
        before = _verifications()
        with pytest.raises(BadCredentials) as refused:
            await authentication.login(address, password)
        work.append((_verifications() - before, str(refused.value)))
    assert work == [(1.0, "e-mail address or password is wrong")] * 3


async def test_a_password_is_measured_in_the_form_in_which_it_is_hashed(
    authentication: Authentication, email: str
) -> None:
    composed = "각" * 128
    typed = unicodedata.normalize("NFD", composed)  # as a Mac's keyboard or a file name gives it
    assert len(typed) == 3 * 128
    account, _ = await authentication.sign_up(email, typed)
    for password in (typed, composed):
        assert (await authentication.login(email, password))[0] == account
    with pytest.raises(BadCredentials):
        await authentication.login(email, typed + unicodedata.normalize("NFD", "각"))


async def test_the_loop_runs_on_while_passwords_are_hashed() -> None:
    passwords = Passwords(cheap_hasher(passes=8_000), threads=1, max_waiting=4)
    hashing = asyncio.create_task(passwords.hash(new_password(PASSWORD)))
    started = last = time.perf_counter()
    longest, ticks = 0.0, 0
    while not hashing.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, ticks, last = max(longest, now - last), ticks + 1, now
    assert ticks > 10
    assert longest < (last - started) / 2  # the whole of it, were the hash made in the loop
    assert "argon2id" in await hashing
    await passwords.close()


async def test_when_too_many_wait_the_rest_is_refused_at_once() -> None:
    passwords = Passwords(cheap_hasher(), threads=1, max_waiting=2)
    outcomes = await asyncio.gather(
        *(passwords.hash(new_password(PASSWORD)) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 7
    assert await passwords.hash(new_password(PASSWORD))  # the places are free again
    await passwords.close()


async def test_login_renews_a_hash_of_older_parameters_and_keeps_sessions(
    authentication: Authentication, accounts: Accounts, passwords: Passwords, email: str
) -> None:
    old = cheap_hasher(passes=2).hash(PASSWORD)
    account, tokens = await authentication.sign_up(email, PASSWORD)
    await accounts.rehash_password(account, old)
    assert passwords.outdated(old)
    renewed, _ = await authentication.login(email, PASSWORD)
    stored = await accounts.by_id(renewed.user_id)
    assert stored is not None
    assert not passwords.outdated(stored.password_hash)
    assert await authentication.refresh(tokens.refresh_token)
