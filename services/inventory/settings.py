"""What inventory reads from the environment."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from services.common.keyring import KeyRing
from services.common.settings import Address, CommonSettings, EventLogUrl, MysqlUrl, RedisUrl


def _check_keys(keys: SecretStr) -> SecretStr:
    KeyRing.parse(keys.get_secret_value())
    return keys


class SeedSettings(CommonSettings):
    """What the seed command needs; it reads no more."""

    # mysql://user:password@host:port/database, a database of inventory's own.
    mysql_url: MysqlUrl


class AuditSettings(SeedSettings):
    """What the audit command needs."""

    # redis://host:port/db of the seats.
    redis_url: RedisUrl


class InventorySettings(AuditSettings):
    """What both roles need."""

    # kafka://… or redis://…
    eventlog_url: EventLogUrl
    # host:port of auth: the keys that access tokens are verified with.
    auth_target: Address
    # "kid1:base64,kid2:base64"; shared with queue alone, which signs with them.
    admission_keys: Annotated[SecretStr, AfterValidator(_check_keys)]
    # Time to pay. Ten minutes is what buyers of seats are used to; a demo cannot wait so long.
    booking_hold_seconds: Annotated[float, Field(ge=1, le=3600)] = 600.0

    @property
    def pay_time(self) -> timedelta:
        """Time to pay."""
        return timedelta(seconds=self.booking_hold_seconds)
