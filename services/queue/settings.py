"""What queue reads from the environment."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from services.common.limits import RateText
from services.common.settings import Address, CommonSettings, EventLogUrl, RedisUrl
from services.common.tokens import KeyRing
from services.queue.line.domain import Mode, Policy


def _check_keys(keys: SecretStr) -> SecretStr:
    KeyRing.parse(keys.get_secret_value())
    return keys


# "kid1:base64,kid2:base64"; the first key signs, all verify.
Keys = Annotated[SecretStr, AfterValidator(_check_keys)]


class QueueSettings(CommonSettings):
    """What the service needs, and how lines are run unless an operator says otherwise."""

    # redis://host:port/db of the lines.
    redis_url: RedisUrl
    # kafka://… or redis://…
    eventlog_url: EventLogUrl
    # host:port of inventory: which events there are, and when they are sold.
    inventory_target: Address
    # host:port of auth: the keys that access tokens are verified with.
    auth_target: Address
    # Shared with inventory alone.
    admission_keys: Keys
    # Of signed places; queue's own.
    place_keys: Keys

    queue_mode: Mode = Mode.OPEN
    # Calls per second. A buyer inside makes about ten requests; the shop takes thousands per second.
    queue_rate_per_second: Annotated[float, Field(ge=0.1, le=10_000)] = 50.0
    # People inside at one time: those that the rate lets in during two minutes, a usual time for seats and payment.
    queue_inside_cap: Annotated[int, Field(ge=1, le=1_000_000)] = 6_000
    # Long enough to see a push message and unlock a phone.
    queue_claim_window: Annotated[timedelta, Field(ge=timedelta(seconds=10), le=timedelta(hours=1))] = timedelta(
        minutes=3
    )
    # Ten minutes is the longest life of an admission token.
    queue_admission: Annotated[timedelta, Field(ge=timedelta(seconds=30), le=timedelta(minutes=10))] = timedelta(
        minutes=10
    )
    # After a loss of Redis nobody is called for so long after somebody came back to a place: those at the back of a
    # line ask every eight seconds.
    queue_restore_grace: Annotated[timedelta, Field(ge=timedelta(seconds=1), le=timedelta(minutes=1))] = timedelta(
        seconds=10
    )
    # Nor does it take longer in all: a million places come back in this time.
    queue_restore_limit: Annotated[timedelta, Field(ge=timedelta(seconds=1), le=timedelta(hours=1))] = timedelta(
        minutes=5
    )

    # Joins, as "burst/per minute"; 0: no limit. An app that joins once per screen, and a person who is nervous.
    queue_joins_per_account: RateText = "10/20"
    # What shares an IPv4 address, or an IPv6 network of /64: a household, or an office. Who comes back to a place that
    # they have is not counted.
    queue_joins_per_address: RateText = "300/600"
    # What newcomers must answer.
    queue_challenge: Literal["none", "proof_of_work"] = "none"
    # Zero bits of a proof of work. 18: a quarter of a million hashes, about a second of a phone.
    queue_challenge_bits: Annotated[int, Field(ge=8, le=30)] = 18

    def default_policy(self) -> Policy:
        """How a line is run until its policy is changed."""
        return Policy(
            mode=self.queue_mode,
            rate_per_second=self.queue_rate_per_second,
            inside_cap=self.queue_inside_cap,
            claim_window=self.queue_claim_window,
            admission=self.queue_admission,
        )
