"""Push by Amazon SNS: APNs for iOS, FCM for Android and browsers.

boto3 blocks, so calls run in a bounded pool of threads, with as many connections. It makes no retries of its own: the
queue of deliveries does, in exactly one layer.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from services.common.clock import Clock, SystemClock
from services.notify.domain import Device, DeviceGone, DeviceToken, Message, Platform, ProviderFailure

CONNECT_TIMEOUT = timedelta(seconds=1)
READ_TIMEOUT = timedelta(seconds=3)  # an SNS publish takes tens of milliseconds; what takes 3 s is not coming
MOST_CALLS_PER_SEND = 4  # application, endpoint, enabling it, publish: bounds how long one send can take

_SERVICE = {Platform.IOS: "APNS", Platform.ANDROID: "GCM", Platform.WEB: "GCM"}
# Only their texts tell these apart. The first, the answer to a token that has a disabled endpoint, is parsed as the SNS
# developer guide does. Any other fault of a parameter is ours, and no reason to forget phones.
_EXISTING_ENDPOINT = re.compile(r"Endpoint (arn:\S+) already exists with the same Token")
_BAD_TOKEN = re.compile(r"Invalid parameter: Token\b(?!.* already exists )")
_BAD_TARGET = re.compile(r"Invalid parameter: TargetArn\b")
_INVALID = frozenset({"InvalidParameter", "InvalidParameterException"})

_Answer = TypeVar("_Answer")


class EndpointBook(Protocol):
    """Remembers which endpoint SNS made for which device."""

    async def endpoint(self, token: DeviceToken) -> str | None:
        """The endpoint of this token, if it is known."""

    async def remember_endpoint(self, token: DeviceToken, endpoint: str) -> None:
        """Keeps it."""

    async def forget_endpoint(self, token: DeviceToken) -> None:
        """SNS no longer knows it."""


class SnsPush:
    """The push channel. Platform applications are found by the given ARNs, or made once where there are none."""

    name = "sns"

    def __init__(
        self,
        client: Any,
        pool: ThreadPoolExecutor,
        book: EndpointBook,
        applications: Mapping[Platform, str],
        clock: Clock,
    ) -> None:
        self._client = client
        self._pool = pool
        self._book = book
        self._applications = dict(applications)
        self._clock = clock
        self._making_application = asyncio.Lock()

    async def send(self, device: Device, message: Message) -> None:
        """See Channel."""
        endpoint = await self._endpoint(device)
        useful = message.stale_time - self._clock.now()
        try:
            await self._call(
                self._client.publish,
                TargetArn=endpoint,
                Message=_payload(message),
                MessageStructure="json",
                MessageAttributes=_time_to_live(useful),
            )
        except ClientError as error:
            await self._judge(error, device)

    async def _judge(self, error: ClientError, device: Device) -> None:
        code = error.response["Error"]["Code"]
        if code in {"EndpointDisabled", "EndpointDisabledException"}:
            raise DeviceGone(code) from error
        deleted = code in _INVALID and _BAD_TARGET.search(_text(error))
        if deleted or code in {"NotFound", "NotFoundException"}:
            await self._book.forget_endpoint(device.token)
        raise ProviderFailure(code) from error

    async def _endpoint(self, device: Device) -> str:
        known = await self._book.endpoint(device.token)
        if known is not None:
            return known
        endpoint = await self._make_endpoint(device, await self._application(device.platform))
        await self._book.remember_endpoint(device.token, endpoint)
        return endpoint

    async def _make_endpoint(self, device: Device, application: str) -> str:
        """The enabled endpoint of a token; SNS answers the same call from two replicas with the same endpoint."""
        enabled = {"Enabled": "true"}
        create = self._client.create_platform_endpoint
        try:
            made = await self._call(create, PlatformApplicationArn=application, Token=device.token, Attributes=enabled)
        except ClientError as error:
            existing = _EXISTING_ENDPOINT.search(_text(error))
            if existing is None:
                raise _refused_token(error) from error
            await self._call(self._client.set_endpoint_attributes, EndpointArn=existing.group(1), Attributes=enabled)
            return existing.group(1)
        return str(made["EndpointArn"])

    async def _application(self, platform: Platform) -> str:
        async with self._making_application:
            if platform not in self._applications:
                made = await self._call(
                    self._client.create_platform_application,
                    Name=f"boxoffice-{platform.lower()}",
                    Platform=_SERVICE[platform],
                    Attributes={"PlatformPrincipal": "stand-in", "PlatformCredential": "stand-in"},
                )
                self._applications[platform] = str(made["PlatformApplicationArn"])
        return self._applications[platform]

    async def _call(self, method: Callable[..., _Answer], **parameters: Any) -> _Answer:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(method, **parameters))
        # No connection, no answer in time; or an answer that is none: the error page of something in between.
        except (BotoCoreError, ResponseParserError) as error:
            raise ProviderFailure(type(error).__name__) from error


@asynccontextmanager
async def open_sns(
    book: EndpointBook, *, endpoint_url: str | None, region: str, applications: Mapping[Platform, str], threads: int
) -> AsyncIterator[SnsPush]:
    """The push channel with its client and threads; closing waits for calls under way."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sns")
    try:
        client = await loop.run_in_executor(pool, _client, endpoint_url, region, threads)
        yield SnsPush(client, pool, book, applications, SystemClock())
        await loop.run_in_executor(None, client.close)
    finally:
        await loop.run_in_executor(None, partial(pool.shutdown, cancel_futures=True))


def is_stand_in(endpoint_url: str | None) -> bool:
    """Whether the endpoint is a development stand-in. Amazon's own, private ones included, are never plain HTTP."""
    return endpoint_url is not None and endpoint_url.startswith("http://")


def _client(endpoint_url: str | None, region: str, threads: int) -> Any:
    config = Config(
        max_pool_connections=threads,
        connect_timeout=CONNECT_TIMEOUT.total_seconds(),
        read_timeout=READ_TIMEOUT.total_seconds(),
        retries={"total_max_attempts": 1},
    )
    # A stand-in takes any credentials; nowhere else may the usual chain (environment, role) be bypassed.
    credential = "stand-in" if is_stand_in(endpoint_url) else None
    return boto3.session.Session(region_name=region).client(
        "sns",
        endpoint_url=endpoint_url,
        config=config,
        aws_access_key_id=credential,
        aws_secret_access_key=credential,
    )


def _refused_token(error: ClientError) -> Exception:
    code = error.response["Error"]["Code"]
    return DeviceGone(code) if code in _INVALID and _BAD_TOKEN.search(_text(error)) else ProviderFailure(code)


def _text(error: ClientError) -> str:
    return str(error.response["Error"].get("Message", ""))


def _time_to_live(useful: timedelta) -> dict[str, dict[str, str]]:
    """How long Apple and Google keep the message for a phone that is off, in seconds: no longer than it is useful."""
    seconds = {"DataType": "String", "StringValue": str(max(1, int(useful.total_seconds())))}
    return {f"AWS.SNS.MOBILE.{service}.TTL": seconds for service in ("APNS", "FCM")}


def _payload(message: Message) -> str:
    """One document with a rendering for each push service; SNS sends the one of the endpoint."""
    data = {"url": message.url, "cta": message.call_to_action, "kind": message.kind, "id": message.fact_id}
    alert = {"title": message.title, "body": message.body}
    apns = {"aps": {"alert": alert, "sound": "default", "category": message.kind}, **data}
    fcm = {"fcmV1Message": {"message": {"notification": alert, "data": data}}}
    return json.dumps({"default": message.body, "APNS": _compact(apns), "GCM": _compact(fcm)}, ensure_ascii=False)


def _compact(document: Mapping[str, object]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
