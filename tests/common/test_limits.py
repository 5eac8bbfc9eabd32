"""Budgets of accounts and addresses, in a real Redis, on its clock."""

import asyncio
from typing import Any, cast

import pytest
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from services.common.limits import Limiter, Rate, RateLimited, RateText, subject_of
from services.common.redis import open_redis

HOME = "192.0.2.7"
OFF = Rate.parse("0")


def _limiter(redis: Redis, account: str = "0", address: str = "0") -> Limiter:
    return Limiter(redis, "test", account=Rate.parse(account), address=Rate.parse(address))


async def _pass_time(redis: Redis, seconds: float) -> None:
    """Lets every budget believe that so much time has passed."""
    for kind in ("accounts", "addresses"):
        key = f"limits:{{test}}:{kind}"
        for subject in await cast("Any", redis.zrange(key, 0, -1)):
            await redis.zincrby(key, -seconds * 1_000_000, subject)


def _whose(refusals: list[RateLimited | None]) -> list[str]:
    return [refusal.metadata["limit"] if refusal else "" for refusal in refusals]


async def test_a_burst_is_allowed_and_then_what_comes_back(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        limiter = _limiter(redis, account="3/60")
        assert _whose(await limiter.take([(1, "")] * 4 + [(2, "")])) == ["", "", "", "account", ""]
        (refusal,) = await limiter.take([(1, "")])
        assert refusal
        # One comes back each second.
        assert 0 < int(refusal.metadata["retry_after_ms"]) <= 1000

        await _pass_time(redis, 1.0)
        assert _whose(await limiter.take([(1, "")] * 2)) == ["", "account"]
        # Nobody saves up more than a burst.
        await _pass_time(redis, 3600)
        assert _whose(await limiter.take([(1, "")] * 4)) == ["", "", "", "account"]


async def test_what_is_whole_again_takes_no_memory(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        limiter = _limiter(redis, account="3/60", address="3/60")
        await limiter.take([(user, f"192.0.2.{user}") for user in range(100)])
        assert await redis.zcard("limits:{test}:accounts") == 100
        await _pass_time(redis, 3600)
        await limiter.take([(1, HOME)])
        assert [await redis.zcard(f"limits:{{test}}:{kind}") for kind in ("accounts", "addresses")] == [1, 1]
        assert 0 < await redis.pttl("limits:{test}:accounts") <= 3001


async def test_an_account_that_hammers_costs_its_neighbours_nothing(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        limiter = _limiter(redis, account="2/60", address="5/60")
        assert _whose(await limiter.take([(1, HOME)] * 50)) == ["", "", *["account"] * 48]
        assert _whose(await limiter.take([(user, HOME) for user in range(2, 7)])) == ["", "", "", "address", "address"]


async def test_a_refusal_by_the_address_costs_the_account(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        limiter = _limiter(redis, account="2/60", address="1/60")
        assert _whose(await limiter.take([(1, HOME)] * 3)) == ["", "address", "account"]


async def test_what_is_given_back_can_be_taken_again_and_no_more(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        limiter = _limiter(redis, address="3/1")
        await limiter.take([(user, HOME) for user in range(3)])
        await limiter.give_back([HOME, HOME, "", "198.51.100.1"])
        assert _whose(await limiter.take([(user, HOME) for user in range(3)])) == ["", "", "address"]
        assert _whose(await limiter.take([(9, "198.51.100.1")] * 4)) == ["", "", "", "address"]


async def test_all_processes_share_a_budget(redis_url: str) -> None:
    async with open_redis(redis_url) as one, open_redis(redis_url) as two:
        rounds = [_limiter(redis, account="7/1").take([(1, "")] * 5) for redis in (one, two)]
        outcomes = [whose for refusals in await asyncio.gather(*rounds) for whose in _whose(refusals)]
        assert outcomes.count("") == 7


async def test_without_limits_redis_is_not_asked() -> None:
    async with open_redis("redis://127.0.0.1:1/0") as nowhere:
        limiter = _limiter(nowhere)
        assert await limiter.take([(1, HOME)] * 3) == [None] * 3
        await limiter.give_back([HOME])


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::/64"),
        ("", ""),
        ("unknown", ""),
    ],
)
def test_a_household_is_one_subject(address: str, subject: str) -> None:
    assert subject_of(address) == subject


@pytest.mark.parametrize("text", ["10", "10/", "/20", "0/20", "10/0", "-1/20", "1.5/2", "1/2/3", "10/2000000", "x"])
def test_a_rate_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RateText).validate_python(text)
    assert Rate.parse("10/20") == Rate(10, 20)
    assert OFF.interval_us == 0
