"""Asking the shop how it is, once a second, for all lines of this process."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

import grpc
from boxoffice.inventory.v1 import shop_service_pb2 as pb
from boxoffice.inventory.v1 import shop_service_pb2_grpc as rpc

from services.common import metrics
from services.queue.admission.pace import Health, Limits, Pace, Reason

INTERVAL: Final = timedelta(seconds=1)
# Inventory answers from memory. What takes longer is as good as no answer, and must not keep the next from being asked.
_TIMEOUT_SECONDS: Final = 0.8

_log = logging.getLogger(__name__)


class ShopWatch:
    """Keeps the pace true to what inventory tells. `step` is to be called once a second."""

    def __init__(self, stub: "rpc.ShopServiceAsyncStub", limits: Limits) -> None:
        self._stub = stub
        self.pace = Pace(limits, _now())

    async def step(self) -> None:
        """Asks once, and slows the lines or lets them recover."""
        before = self.pace.slowed_by
        self.pace.step(await self._ask(), _now())
        metrics.QUEUE_SLOWDOWN.set(1 - self.pace.factor)
        for reason in Reason:
            metrics.QUEUE_SLOWED.labels(reason).set(reason in self.pace.slowed_by)
        if self.pace.slowed_by != before:
            fields = {"slowed_by": list(self.pace.slowed_by), "pace": round(self.pace.factor, 3)}
            _log.warning("what slows the lines has changed", extra={"fields": fields})

    async def _ask(self) -> Health | None:
        try:
            answer = await self._stub.GetShopHealth(pb.GetShopHealthRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError:
            return None  # told as a reason when it lasts
        return Health(
            hold_p99=answer.hold_latency_p99.ToTimedelta() if answer.HasField("hold_latency_p99") else None,
            event_log_lag=answer.event_log_lag if answer.HasField("event_log_lag") else None,
            payment_backlog=answer.payment_backlog if answer.HasField("payment_backlog") else None,
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
