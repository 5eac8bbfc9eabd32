"""ShopService."""

from typing import Any

from boxoffice.inventory.v1 import shop_service_pb2 as pb
from boxoffice.inventory.v1 import shop_service_pb2_grpc as rpc
from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext

from services.inventory.shop import ShopMeter

Context = ServicerContext[Any, Any]


class ShopApi(rpc.ShopServiceServicer):
    """How the shop is doing, as it was a second ago at most."""

    def __init__(self, meter: ShopMeter) -> None:
        self._meter = meter

    async def GetShopHealth(self, request: pb.GetShopHealthRequest, context: Context) -> pb.GetShopHealthResponse:
        health, hold_latency = self._meter.health, None
        if health.hold_p99 is not None:
            hold_latency = Duration()
            hold_latency.FromTimedelta(health.hold_p99)
        return pb.GetShopHealthResponse(
            hold_latency_p99=hold_latency,
            event_log_lag=health.event_log_lag,
            payment_backlog=health.payment_backlog,
        )
