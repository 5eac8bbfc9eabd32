"""What notify reads from the environment."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from services.common.settings import Address, CommonSettings, EventLogUrl, RedisUrl
from services.notify.channels.sns import is_stand_in
from services.notify.domain import Platform


class NotifySettings(CommonSettings):
    """What the service needs."""

    # redis://host:port/db of devices and waiting deliveries.
    redis_url: RedisUrl
    # kafka://host:port[,host:port] or redis://host:port/db.
    eventlog_url: EventLogUrl
    # host:port of auth, for the keys of access tokens.
    auth_target: Address
    # Where people reach Boxoffice: links in messages begin with it.
    public_url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:8080"

    # Absent: Amazon's own. Plain http:// is a stand-in for development.
    sns_endpoint_url: str | None = None
    sns_region: str = "ap-northeast-2"
    # Platform application ARNs, as JSON: {"IOS": "arn:…", "ANDROID": "arn:…", "WEB": "arn:…"}. They are made where the
    # credentials of Apple and Google are kept, so this process never sees those; a stand-in makes its own.
    sns_applications: Annotated[dict[Platform, str], Field(default_factory=dict)]

    # Pushes under way in one process, and threads for them. If SNS takes 50 ms, 32 give some 600/s.
    push_concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    # An unfinished claim is due again: above the longest possible send (four calls of at most 4 s).
    push_lease: timedelta = timedelta(seconds=20)
    # 1, 2, 4 … 60 s: twelve attempts outlast a provider's failure of about six minutes.
    push_first_pause: timedelta = timedelta(seconds=1)
    push_longest_pause: timedelta = timedelta(seconds=60)
    push_attempts: Annotated[int, Field(ge=1)] = 12
    # How long a repeated fact is recognised; about 150 bytes each. As long as idempotency keys are kept.
    remember_deliveries: timedelta = timedelta(hours=24)

    @model_validator(mode="after")
    def _applications_are_known(self) -> Self:
        missing = set(Platform) - set(self.sns_applications)
        if missing and not is_stand_in(self.sns_endpoint_url):
            raise ValueError(f"BOXOFFICE_SNS_APPLICATIONS lacks {', '.join(sorted(missing))}")
        return self
