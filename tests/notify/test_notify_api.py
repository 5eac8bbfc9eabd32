"""NotifyService over a real gRPC server."""

from __future__ import annotations  # the async stub exists for type checkers only

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import grpc
import pytest
from boxoffice.notify.v1 import notify_service_pb2 as pb
from boxoffice.notify.v1 import notify_service_pb2_grpc as rpc

from deploy.local.site import rsa_key
from services.auth.keys import SigningKeys
from services.common import grpc_server
from services.common.errors import from_rpc_error
from services.common.lifecycle import Lifecycle, running
from services.common.settings import CommonSettings
from services.common.tokens import TokenVerifier
from services.notify.api import NotifyApi
from services.notify.domain import DeviceToken, Language, Platform, UserId
from services.notify.store import Devices


@pytest.fixture(scope="session")
def keys() -> SigningKeys:
    return SigningKeys.parse(rsa_key().encode())


@pytest.fixture
async def stub(devices: Devices, keys: SigningKeys) -> AsyncIterator[rpc.NotifyServiceAsyncStub]:
    ports: list[int] = []

    async def published() -> list[dict[str, str]]:
        return keys.jwks()

    async def start(lifecycle: Lifecycle) -> None:
        registrations = [(rpc.add_NotifyServiceServicer_to_server, NotifyApi(devices))]
        ports.append(await grpc_server.serve(lifecycle, CommonSettings(), registrations, TokenVerifier(published)))

    async with running(start, 0.1), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield rpc.NotifyServiceStub(channel)


def _as(keys: SigningKeys, user_id: int) -> tuple[tuple[str, str], ...]:
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": "boxoffice", "sub": str(user_id), "sid": "s", "roles": ["buyer"], "iat": now, "exp": now + 60}
    return (("authorization", f"Bearer {keys.sign(claims)}"),)


async def test_a_device_belongs_to_whoever_is_signed_in(
    stub: rpc.NotifyServiceAsyncStub, devices: Devices, keys: SigningKeys
) -> None:
    token = DeviceToken("device-token-1")
    request = pb.RegisterDeviceRequest(device_token=token, platform=pb.PLATFORM_IOS, language=pb.LANGUAGE_EN)
    assert (await stub.RegisterDevice(request, metadata=_as(keys, 1))).device_count == 1
    assert (await stub.RegisterDevice(request, metadata=_as(keys, 2))).device_count == 1
    device = await devices.by_token(token)
    assert device is not None
    assert (device.user_id, device.platform, device.language) == (UserId(2), Platform.IOS, Language.EN)
    forget = pb.UnregisterDeviceRequest(device_token=token)
    await stub.UnregisterDevice(forget, metadata=_as(keys, 1))
    assert await devices.by_token(token) == device
    for _ in range(2):
        await stub.UnregisterDevice(forget, metadata=_as(keys, 2))
    assert await devices.by_token(token) is None


async def test_without_a_language_people_are_told_in_korean(
    stub: rpc.NotifyServiceAsyncStub, devices: Devices, keys: SigningKeys
) -> None:
    request = pb.RegisterDeviceRequest(device_token="device-token-2", platform=pb.PLATFORM_WEB)
    await stub.RegisterDevice(request, metadata=_as(keys, 1))
    device = await devices.by_token(DeviceToken("device-token-2"))
    assert device is not None
    assert device.language is Language.KO


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RegisterDeviceRequest(platform=pb.PLATFORM_IOS), "device_token"),
        (pb.RegisterDeviceRequest(device_token="short", platform=pb.PLATFORM_IOS), "device_token"),
        (pb.RegisterDeviceRequest(device_token="spaces are wrong", platform=pb.PLATFORM_IOS), "device_token"),
        (pb.RegisterDeviceRequest(device_token="device-token-3"), "platform"),
        (pb.RegisterDeviceRequest(device_token="device-token-3", platform=99), "platform"),  # type: ignore[arg-type] # a later client
        (
            pb.RegisterDeviceRequest(device_token="device-token-3", platform=pb.PLATFORM_IOS, language=99),  # type: ignore[arg-type] # a later client
            "language",
        ),
    ],
)
async def test_bad_input_names_the_field(
    stub: rpc.NotifyServiceAsyncStub, keys: SigningKeys, request_: pb.RegisterDeviceRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.RegisterDevice(request_, metadata=_as(keys, 1))
    reason, detail, metadata = from_rpc_error(refused.value)
    assert (reason, metadata) == ("INVALID_ARGUMENT", {"field": field})
    assert not request_.device_token or request_.device_token not in detail


async def test_nobody_registers_without_signing_in(stub: rpc.NotifyServiceAsyncStub) -> None:
    request = pb.RegisterDeviceRequest(device_token="device-token-4", platform=pb.PLATFORM_IOS)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.RegisterDevice(request)
    assert from_rpc_error(refused.value)[0] == "UNAUTHENTICATED"
