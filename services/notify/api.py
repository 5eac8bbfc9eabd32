"""NotifyService: unpacks requests, calls the store, packs answers."""

from typing import Any

from boxoffice.notify.v1 import notify_service_pb2 as pb
from boxoffice.notify.v1 import notify_service_pb2_grpc as rpc
from grpc.aio import ServicerContext

from services.common.caller import current_caller
from services.notify.domain import Device, Language, Platform, Unacceptable, UserId, device_token
from services.notify.store import Devices

Context = ServicerContext[Any, Any]

_PLATFORMS = {pb.PLATFORM_IOS: Platform.IOS, pb.PLATFORM_ANDROID: Platform.ANDROID, pb.PLATFORM_WEB: Platform.WEB}
_LANGUAGES = {
    pb.LANGUAGE_UNSPECIFIED: Language.KO,
    pb.LANGUAGE_KO: Language.KO,
    pb.LANGUAGE_EN: Language.EN,
}


class NotifyApi(rpc.NotifyServiceServicer):
    """The RPCs of notify; their promises are in the proto."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    async def RegisterDevice(self, request: pb.RegisterDeviceRequest, context: Context) -> pb.RegisterDeviceResponse:
        return pb.RegisterDeviceResponse(device_count=await self._devices.register(_device(request)))

    async def UnregisterDevice(
        self, request: pb.UnregisterDeviceRequest, context: Context
    ) -> pb.UnregisterDeviceResponse:
        await self._devices.unregister(device_token(request.device_token), UserId(current_caller().user_id))
        return pb.UnregisterDeviceResponse()


def _device(request: pb.RegisterDeviceRequest) -> Device:
    token = device_token(request.device_token)
    platform, language = _PLATFORMS.get(request.platform), _LANGUAGES.get(request.language)
    if platform is None:
        raise Unacceptable("platform", "one of the named platforms is needed")
    if language is None:
        raise Unacceptable("language", "not one of the named languages")
    return Device(token, UserId(current_caller().user_id), platform, language)
