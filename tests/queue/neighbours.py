"""Stand-ins for the services that queue asks, speaking their contracts over real gRPC; tests decide the answers."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_rpc
from boxoffice.inventory.v1 import event_service_pb2 as inventory_pb
from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc
from boxoffice.inventory.v1 import shop_service_pb2 as shop_pb
from boxoffice.inventory.v1 import shop_service_pb2_grpc as shop_rpc
from google.protobuf.timestamp_pb2 import Timestamp

from deploy.local.site import rsa_key
from services.auth.keys import SigningKeys
from services.common.errors import to_status
from services.common.keyring import KeyRing
from services.queue.line.domain import EventNotFound

KEYS = SigningKeys.parse(rsa_key().encode())
ADMISSION_KEYS = "a1:" + base64.b64encode(b"a" * 32).decode()
PLACE_KEYS = "p1:" + base64.b64encode(b"p" * 32).decode()
DRAW_SECRET = base64.b64encode(b"d" * 32).decode()
RECEIPT_KEYS = "r1:" + base64.b64encode(b"r" * 32).decode()
ADMISSION_RING = KeyRing.parse(ADMISSION_KEYS)


def stamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def bearer(user_id: int, *roles: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call by this account."""
    now = int(time.time())
    claims = {"iss": "boxoffice", "sub": str(user_id), "sid": "s", "roles": ["buyer", *roles]}
    return (("authorization", f"Bearer {KEYS.sign({**claims, 'iat': now, 'exp': now + 86_400})}"),)


class Neighbours(auth_rpc.AuthServiceServicer, inventory_rpc.EventServiceServicer, shop_rpc.ShopServiceServicer):
    """Auth's keys, inventory's events, and how the shop is doing: well, unless a test says otherwise."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.target = ""
        self.asked = 0
        self.away = False
        self.health = shop_pb.GetShopHealthResponse(event_log_lag=0, payment_backlog=0)
        self.events = {
            7: inventory_pb.Event(
                event_id=7,
                sale_open_time=stamp(now - timedelta(hours=1)),
                sale_close_time=stamp(now + timedelta(hours=1)),
            )
        }

    async def GetJwks(self, request: Any, context: Any) -> auth_pb.GetJwksResponse:
        return auth_pb.GetJwksResponse(keys=[auth_pb.Jwk(**key) for key in KEYS.jwks()])

    async def GetEvent(self, request: inventory_pb.GetEventRequest, context: Any) -> inventory_pb.GetEventResponse:
        self.asked += 1
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        if request.event_id not in self.events:
            status = to_status(EventNotFound())
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(grpc.StatusCode.NOT_FOUND, status.message)
        return inventory_pb.GetEventResponse(event=self.events[request.event_id])

    async def GetShopHealth(self, request: Any, context: Any) -> shop_pb.GetShopHealthResponse:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        return self.health


@asynccontextmanager
async def neighbours() -> AsyncIterator[Neighbours]:
    """Serves them on a port of their own."""
    servicer = Neighbours()  # type: ignore[abstract] # what queue does not ask is not answered
    server = grpc.aio.server()
    auth_rpc.add_AuthServiceServicer_to_server(servicer, server)
    inventory_rpc.add_EventServiceServicer_to_server(servicer, server)
    shop_rpc.add_ShopServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(0)
