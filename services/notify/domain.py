"""Devices, facts, messages, and when to try again."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

UserId = NewType("UserId", int)
DeviceToken = NewType("DeviceToken", str)
"""What a push platform calls one installation of an app. Whoever has it can be addressed by it: never logged."""

_DEVICE_TOKEN = re.compile(r"[A-Za-z0-9_:.-]{8,512}")


class Platform(StrEnum):
    """The push platform of a device."""

    IOS = "IOS"
    ANDROID = "ANDROID"
    WEB = "WEB"


class Language(StrEnum):
    """The language in which a device is told things."""

    KO = "ko"
    EN = "en"


class Kind(StrEnum):
    """What people are told about; each has one template per language."""

    PLACE_CALLED = "place_called"
    BOOKING_CONFIRMED = "booking_confirmed"


class Unacceptable(ValueError):
    """A field has a value that no device can have."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.metadata: Mapping[str, str] = {"field": field}


class DeviceGone(Exception):
    """The provider says that this device cannot be reached any more: forget it."""


class ProviderFailure(Exception):
    """The provider did not take the message, this time."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where one person can be reached."""

    token: DeviceToken
    user_id: UserId
    platform: Platform
    language: Language


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened to one person and that they want to know."""

    fact_id: str
    kind: Kind
    time: datetime
    user_id: UserId
    event_id: int
    # Telling it later than this helps nobody.
    stale_time: datetime
    # What the template and the link of this kind name, beyond the event.
    details: Mapping[str, str]
    traceparent: str


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads, and where a tap leads."""

    kind: Kind
    title: str
    body: str
    call_to_action: str
    url: str
    fact_id: str
    stale_time: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One fact on its way to one device: the unit that is claimed, repeated, and finished."""

    delivery_id: str
    topic: str
    token: DeviceToken
    # A serialized record of `topic` that holds this fact alone, so that it can be repeated from a dead-letter topic.
    source: bytes
    traceparent: str
    # How often it has been claimed, this time included.
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Growing pauses with jitter, so that a provider that comes back is not met by everyone at once."""

    first_pause: timedelta
    longest_pause: timedelta
    max_attempts: int

    def is_last(self, attempt: int) -> bool:
        """Whether no attempt follows this one."""
        return attempt >= self.max_attempts

    def pause(self, attempt: int, chance: float) -> timedelta:
        """The pause after an attempt, counted from 1: doubled each time, of which `chance` in [0, 1) moves a half."""
        doubled: timedelta = self.first_pause * 2 ** min(attempt - 1, 30)
        return min(doubled, self.longest_pause) * (0.5 + chance / 2)


def device_token(text: str) -> DeviceToken:
    """Checks a device token. Raises Unacceptable."""
    if not _DEVICE_TOKEN.fullmatch(text):
        raise Unacceptable("device_token", '8 to 512 letters, digits and "-_:." are needed')
    return DeviceToken(text)


def token_digest(token: DeviceToken) -> str:
    """Names a device where the token itself must not appear: in delivery ids, logs and dead letters."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def delivery_of(fact: Fact, topic: str, source: bytes, token: DeviceToken) -> Delivery:
    """The delivery of a fact to a device; the same two give the same id."""
    return Delivery(f"{fact.fact_id}/{token_digest(token)}", topic, token, source, fact.traceparent)
