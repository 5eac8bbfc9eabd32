"""What queue reads from the environment."""

import base64
import binascii
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from services.common.limits import RateText
from services.common.settings import Address, CommonSettings, EventLogUrl, RedisUrl
from services.common.tokens import KeyRing
from services.common.urls import check_redis_url
from services.queue.admission.pace import Limits
from services.queue.line.domain import Mode, Policy
from services.queue.proofs.receipt import ReceiptKeys

# That a sale is sold out is lost with its line. Inventory tells it again every five seconds, looking twice a second:
# nobody must be called before.
SHORTEST_GRACE: Final = timedelta(seconds=6)
# As many bytes as a seed has: a shorter secret would be easier to guess than what is made of it.
_SHORTEST_SECRET: Final = 32


def _check_keys(keys: SecretStr) -> SecretStr:
    KeyRing.parse(keys.get_secret_value())
    return keys


def _check_receipt_keys(keys: SecretStr) -> SecretStr:
    ReceiptKeys.parse(keys.get_secret_value())
    return keys


def _check_secret(secret: SecretStr) -> SecretStr:
    if len(_bytes(secret)) < _SHORTEST_SECRET:
        raise ValueError(f"must be base64 of at least {_SHORTEST_SECRET} bytes")
    return secret


def _bytes(secret: SecretStr) -> bytes:
    try:
        return base64.b64decode(secret.get_secret_value(), validate=True)
    except binascii.Error:
        return b""


# "kid1:base64,kid2:base64"; the first key signs, all verify.
Keys = Annotated[SecretStr, AfterValidator(_check_keys)]


def _split(urls: object) -> object:
    return [each.strip() for each in urls.split(",")] if isinstance(urls, str) else urls


# They may hold passwords, too.
LeaseUrls = Annotated[
    tuple[Annotated[str, AfterValidator(check_redis_url)], ...], NoDecode, BeforeValidator(_split), Field(repr=False)
]


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
    # The seeds of all draws are made of it. Changed while a draw is pending, it breaks what people were promised: that
    # draw is not held, and its sale does not open, until the old secret is back.
    draw_secret: Annotated[SecretStr, AfterValidator(_check_secret)]
    # "kid1:base64,kid2:base64" of Ed25519 seeds, 32 bytes each; the first signs receipts, all are published.
    receipt_keys: Annotated[SecretStr, AfterValidator(_check_receipt_keys)]

    # redis://… of the nodes that decide who ticks an event, separated by commas; a majority of them must answer. For
    # high availability three that fail apart from each other. Absent: the Redis of the lines alone.
    queue_lease_urls: LeaseUrls = ()
    # The shop is slow when holding takes longer for one in a hundred. Its target for a whole reservation is 100 ms.
    queue_slow_hold_p99: Annotated[timedelta, Field(gt=timedelta())] = timedelta(milliseconds=100)
    # Likewise when so many records wait for the worker: about a second of its work, each record being a batch.
    queue_slow_lag: Annotated[int, Field(ge=1)] = 5_000
    # Likewise when so many payments have no outcome after five seconds: a provider that is away for ten seconds.
    queue_slow_payments: Annotated[int, Field(ge=1)] = 500

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
    queue_restore_grace: Annotated[timedelta, Field(ge=SHORTEST_GRACE, le=timedelta(minutes=1))] = timedelta(seconds=10)
    # Nor does it take longer in all: a million places come back in this time.
    queue_restore_limit: Annotated[timedelta, Field(ge=SHORTEST_GRACE, le=timedelta(hours=1))] = timedelta(minutes=5)

    # Joins, as "burst/per minute"; 0: no limit. An app that joins once per screen, and a person who is nervous.
    queue_joins_per_account: RateText = "10/20"
    # What shares an IPv4 address, or an IPv6 network of /64: a household, or an office. Who comes back to a place that
    # they have is not counted.
    queue_joins_per_address: RateText = "300/600"
    # What newcomers must answer.
    queue_challenge: Literal["none", "proof_of_work"] = "none"
    # Zero bits of a proof of work. 18: a quarter of a million hashes, about a second of a phone.
    queue_challenge_bits: Annotated[int, Field(ge=8, le=30)] = 18

    def draw_secret_bytes(self) -> bytes:
        """The secret of draws, decoded."""
        return _bytes(self.draw_secret)

    def limits(self) -> Limits:
        """What the figures of the shop may be before the lines are slowed."""
        return Limits(self.queue_slow_hold_p99, self.queue_slow_lag, self.queue_slow_payments)

    def default_policy(self) -> Policy:
        """How a line is run until its policy is changed."""
        return Policy(
            mode=self.queue_mode,
            rate_per_second=self.queue_rate_per_second,
            inside_cap=self.queue_inside_cap,
            claim_window=self.queue_claim_window,
            admission=self.queue_admission,
        )
