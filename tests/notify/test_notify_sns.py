"""What is made of Amazon's answers that the stand-in does not give: the real client, its answers written down."""

import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from aiohttp import web
from botocore.stub import ANY, Stubber

from services.notify.channels.sns import SnsPush, open_sns
from services.notify.domain import Device, DeviceGone, Kind, Message, Platform, ProviderFailure
from services.notify.store import Devices
from tests.support import FakeClock

NewDevice = Callable[..., Device]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
APPLICATION = "arn:aws:sns:ap-northeast-2:000000000000:app/GCM/boxoffice"
ENDPOINT = "arn:aws:sns:ap-northeast-2:000000000000:endpoint/GCM/boxoffice/1"


def _message(useful: timedelta = timedelta(seconds=90)) -> Message:
    return Message(Kind.PLACE_CALLED, "Title", "Body", "Go", "https://boxoffice.example/?event=1", "f1", NOW + useful)


@pytest.fixture
async def amazon() -> AsyncIterator[Stubber]:
    client: Any = boto3.session.Session(region_name="ap-northeast-2").client(
        "sns", endpoint_url="http://127.0.0.1:9", aws_access_key_id="none", aws_secret_access_key="none"
    )
    with contextlib.closing(client), Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
async def push(amazon: Stubber, devices: Devices) -> AsyncIterator[SnsPush]:
    with ThreadPoolExecutor(1) as pool:
        yield SnsPush(amazon.client, pool, devices, dict.fromkeys(Platform, APPLICATION), FakeClock(NOW))


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Invalid parameter: Token Reason: iOS device tokens must be hexadecimal", DeviceGone),
        ("Invalid parameter: PlatformApplicationArn Reason: Wrong number of slashes in the ARN", ProviderFailure),
        ("Invalid parameter: Attributes Reason: Invalid value for attribute: Enabled", ProviderFailure),
        (
            "Invalid parameter: Token Reason: Endpoint is such that it already exists with the same Token",
            ProviderFailure,
        ),
    ],
)
async def test_only_a_token_that_is_refused_forgets_the_device(
    amazon: Stubber, push: SnsPush, new_device: NewDevice, text: str, outcome: type[Exception]
) -> None:
    amazon.add_client_error("create_platform_endpoint", "InvalidParameter", text, 400)

    with pytest.raises(outcome):
        await push.send(new_device(), _message())


@pytest.mark.parametrize(
    ("code", "text", "forgotten"),
    [
        (
            "InvalidParameter",
            "Invalid parameter: TargetArn Reason: No endpoint found for the target arn specified",
            True,
        ),
        ("NotFound", "Endpoint does not exist", True),
        ("InvalidParameter", "Invalid parameter: Message too long", False),
        ("InternalError", "try again", False),
    ],
)
async def test_an_endpoint_that_amazon_no_longer_knows_is_forgotten(
    amazon: Stubber, push: SnsPush, devices: Devices, new_device: NewDevice, code: str, text: str, *, forgotten: bool
) -> None:
    device = new_device()
    await devices.remember_endpoint(device.token, ENDPOINT)
    amazon.add_client_error("publish", code, text, 400)

    with pytest.raises(ProviderFailure):
        await push.send(device, _message())

    assert (await devices.endpoint(device.token) is None) is forgotten


async def test_an_answer_that_amazon_did_not_write_is_a_failure_to_be_retried(
    devices: Devices, new_device: NewDevice, unused_tcp_port: int
) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(
            status=500, text="<!doctype html><title>oops</title><p>overloaded", content_type="text/html"
        )

    app = web.Application()
    app.add_routes([web.post("/", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    address = f"http://127.0.0.1:{unused_tcp_port}"
    applications = dict.fromkeys(Platform, APPLICATION)
    async with open_sns(
        devices, endpoint_url=address, region="ap-northeast-2", applications=applications, threads=1
    ) as push:
        with pytest.raises(ProviderFailure, match="ResponseParserError"):
            await push.send(new_device(), _message())
    await runner.cleanup()


@pytest.mark.parametrize(("useful", "seconds"), [(90.7, "90"), (0.2, "1"), (86_400, "86400")])
async def test_a_phone_that_was_off_does_not_hear_late_what_was_urgent(
    amazon: Stubber, push: SnsPush, devices: Devices, new_device: NewDevice, useful: float, seconds: str
) -> None:
    device = new_device()
    await devices.remember_endpoint(device.token, ENDPOINT)
    lifetime = {"DataType": "String", "StringValue": seconds}
    expected = {
        "TargetArn": ENDPOINT,
        "Message": ANY,
        "MessageStructure": "json",
        "MessageAttributes": {"AWS.SNS.MOBILE.APNS.TTL": lifetime, "AWS.SNS.MOBILE.FCM.TTL": lifetime},
    }
    amazon.add_response("publish", {"MessageId": "1"}, expected)

    await push.send(device, _message(timedelta(seconds=useful)))
