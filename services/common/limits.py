"""Limits of how often an account, and how often an address, may do something, kept in Redis for all processes together.

Budgets refill all the time, on Redis' clock; whoever has none left is told when to come back.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator
from redis.asyncio import Redis

from services.common.errors import BoxofficeError
from services.common.lua import Args, Script

_TAKE: Final = Script.load(Path(__file__).with_name("lua") / "rate_limit.lua")
_MINUTE_US: Final = 60_000_000
# Budgets of which some interval is a whole number of µs, and bursts that a sorted set of doubles can hold.
_MOST: Final = 1_000_000
# Providers give a household, or a phone, a network of this size: anybody in it can take any of its addresses.
_IPV6_HOUSEHOLD: Final = 64
_SPELLING: Final = 'must be "burst/per minute", such as 10/20, or 0 for no limit'


class RateLimited(BoxofficeError):
    """Too many calls; the metadata says when the next one can succeed, and whose budget is spent."""

    reason = "RATE_LIMITED"

    def __init__(self, whose: Literal["account", "address"], retry_after_ms: int) -> None:
        super().__init__(f"too many tries of this {whose}", {"retry_after_ms": str(retry_after_ms), "limit": whose})


@dataclass(frozen=True, slots=True)
class Rate:
    """A budget: `burst` at once, and `per_minute` in the long run. Neither is 0, or both are: no limit."""

    burst: int
    per_minute: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "10/20", or "0". Raises ValueError."""
        burst, slash, per_minute = text.strip().partition("/")
        numbers = [burst, per_minute] if slash else [burst, burst]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise ValueError(_SPELLING)
        rate = cls(*map(int, numbers))
        if max(rate.burst, rate.per_minute) > _MOST or (rate.burst == 0) != (rate.per_minute == 0):
            raise ValueError(_SPELLING)
        if not slash and rate.burst:
            raise ValueError(_SPELLING)
        return rate

    @property
    def interval_us(self) -> int:
        """Time in which one comes back, µs; 0 for no limit."""
        return _MINUTE_US // self.per_minute if self.per_minute else 0


def _check_rate(text: str) -> str:
    Rate.parse(text)
    return text


# A setting that `Rate.parse` reads.
RateText = Annotated[str, AfterValidator(_check_rate)]


class Limiter:
    """The budgets of one kind of call, of all accounts and addresses. Calls of all processes count."""

    def __init__(self, redis: Redis, name: str, *, account: Rate, address: Rate) -> None:
        self._redis = redis
        self._account = account
        self._address = address
        # One hash tag, so that one script sees both wherever the keys live.
        self._keys = {kind: f"limits:{{{name}}}:{kind}" for kind in ("accounts", "addresses")}

    async def take(self, pairs: Sequence[tuple[int, str]]) -> list[RateLimited | None]:
        """Takes one from each account, and from its address ("": not counted); None where both had one.

        In the order of the pairs, in one round trip, atomically. A refusal by the account costs the address nothing; a
        refusal by the address still costs the account, so that refusals, too, have a limit.
        """
        if not pairs or not (self._account.burst or self._address.burst):
            return [None] * len(pairs)
        args: Args = {
            "account_us": self._account.interval_us,
            "account_burst": self._account.burst,
            "address_us": self._address.interval_us,
            "address_burst": self._address.burst,
            "pairs": [part for account, address in pairs for part in (account, subject_of(address))],
        }
        waits: list[int] = await _TAKE.call(self._redis, keys=self._keys, args=args)
        return [_refusal(wait) for wait in waits]

    async def give_back(self, addresses: Iterable[str]) -> None:
        """Returns what was taken from addresses for calls that turned out not to count."""
        counts = Counter(filter(None, map(subject_of, addresses)))
        if not counts or not self._address.burst:
            return
        key = self._keys["addresses"]
        async with self._redis.pipeline(transaction=False) as pipe:
            for subject, count in counts.items():
                # A budget that is whole by now is not there, and stays so.
                pipe.zadd(key, {subject: -count * self._address.interval_us}, xx=True, incr=True)
            await pipe.execute()


def _refusal(wait: Any) -> RateLimited | None:
    if not wait:
        return None
    return RateLimited("account", wait) if wait > 0 else RateLimited("address", -wait)


@lru_cache(maxsize=65_536)
def subject_of(address: str) -> str:
    """What shares one budget: an IPv4 address, or the /64 network of an IPv6 address; "" for what is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_HOUSEHOLD), strict=False))
