"""Inventory as its callers see it: both roles running, over gRPC."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import jwt
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_rpc
from boxoffice.inventory.v1 import booking_service_pb2 as pb
from boxoffice.inventory.v1 import booking_service_pb2_grpc as booking_rpc
from boxoffice.inventory.v1 import event_service_pb2 as event_pb
from boxoffice.inventory.v1 import event_service_pb2_grpc as event_rpc
from boxoffice.queue.v1 import queue_events_pb2 as queue_pb
from cryptography.hazmat.primitives.asymmetric import rsa

from services.common.errors import from_rpc_error, from_status
from services.common.eventlog import open_event_log, topics
from services.common.grpc_channel import connect
from services.common.keyring import AdmissionToken, KeyRing
from services.common.lifecycle import Lifecycle, running
from services.common.migrations import migrate
from services.common.mysql import Database, DatabaseUnavailable, open_database
from services.inventory import seatmap
from services.inventory.catalog import Catalog
from services.inventory.domain import ticket_id
from services.inventory.seed import MIGRATIONS
from services.inventory.settings import InventorySettings
from services.inventory.wiring import wire_api, wire_worker
from tests.inventory.desk import admission, event
from tests.support import eventually

ADMISSION_KEYS = "k1:" + "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
SIGNING_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
S = pb.Booking
Role = Callable[[Lifecycle, InventorySettings], Awaitable[int]]


class Keys(auth_rpc.AuthServiceServicer):
    async def GetJwks(self, request: auth_pb.GetJwksRequest, context: Any) -> auth_pb.GetJwksResponse:
        jwk: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(SIGNING_KEY.public_key(), as_dict=True)
        return auth_pb.GetJwksResponse(
            keys=[auth_pb.Jwk(kty="RSA", kid="s1", use="sig", alg="RS256", n=jwk["n"], e=jwk["e"])]
        )


@asynccontextmanager
async def auth_with_our_key() -> AsyncIterator[str]:
    server = grpc.aio.server()
    auth_rpc.add_AuthServiceServicer_to_server(Keys(), server)  # type: ignore[abstract] # it is asked for keys alone
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def signed_in(user: int) -> grpc.aio.Metadata:
    now = int(time.time())
    claims = {"iss": "boxoffice", "sub": str(user), "sid": "s", "roles": ["buyer"], "iat": now, "exp": now + 86_400}
    token = jwt.encode(claims, SIGNING_KEY, algorithm="RS256", headers={"kid": "s1"})
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"))


@dataclass
class Client:
    event_id: int
    events: Any
    bookings: Any

    def request(self, user: int, *seats: int, best: int = 0, key: str = "key-00001") -> pb.ReserveRequest:
        until = datetime.now(tz=UTC) + timedelta(minutes=5)
        return pb.ReserveRequest(
            event_id=self.event_id,
            ticket_ids=[ticket_id(self.event_id, seat) for seat in seats],
            best_available=pb.BestAvailable(quantity=best) if best else None,
            idempotency_key=key,
            admission_token=admission(user, self.event_id, until, KeyRing.parse(ADMISSION_KEYS)),
        )

    async def reserve(self, user: int, *seats: int, **wish: Any) -> pb.ReserveResponse:
        response = await self.bookings.Reserve(self.request(user, *seats, **wish), metadata=signed_in(user))
        assert isinstance(response, pb.ReserveResponse)
        return response

    async def state(self, user: int, booking_id: str) -> int:
        answer = await self.bookings.GetBooking(pb.GetBookingRequest(booking_id=booking_id), metadata=signed_in(user))
        return int(answer.booking.state)

    async def reserved(self, user: int, *seats: int, **wish: Any) -> str:
        booking_id = (await self.reserve(user, *seats, **wish)).booking_id

        async def durable() -> bool:
            return await self.state(user, booking_id) == S.STATE_RESERVED

        await eventually(durable)
        return booking_id

    async def pay(self, user: int, booking_id: str, method: str = "tok_approve", key: str = "pay-00001") -> Any:
        request = pb.PayBookingRequest(booking_id=booking_id, payment_method=method, idempotency_key=key)
        return await self.bookings.PayBooking(request, metadata=signed_in(user))


async def reason_of(call: Awaitable[Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return from_rpc_error(failure.value)[0]


@pytest.fixture
async def settings(mysql_url_factory: Callable[[str], str], redis_url: str) -> AsyncIterator[InventorySettings]:
    async with auth_with_our_key() as auth_target:
        yield InventorySettings(
            mysql_url=mysql_url_factory("inventory_api"),
            redis_url=redis_url,
            eventlog_url=redis_url,
            auth_target=auth_target,
            admission_keys=ADMISSION_KEYS,  # type: ignore[arg-type] # pydantic makes a secret of it
        )


@pytest.fixture
async def client(settings: InventorySettings) -> AsyncIterator[Client]:
    async with open_database(settings.mysql_url) as db:
        await migrate(db, MIGRATIONS)
        event_id = await Catalog(db).add(event(), seatmap.hall_document("club"))
    async with (
        running(partial(wire, wire_api, settings), 1) as api,
        running(partial(wire, wire_worker, settings), 1),
        connect(f"127.0.0.1:{api.addresses['grpc_port']}") as channel,
    ):
        yield Client(event_id, event_rpc.EventServiceStub(channel), booking_rpc.BookingServiceStub(channel))


async def wire(role: Role, settings: InventorySettings, process: Lifecycle) -> None:
    await role(process, settings)


@pytest.mark.parametrize(("role", "serves"), [(wire_api, True), (wire_worker, False)], ids=["api", "worker"])
async def test_the_api_alone_is_not_taken_out_of_balancing_while_mysql_is_away(
    role: Role, serves: bool, settings: InventorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: Database) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(Database, "ping", away)
    async with running(partial(wire, role, settings), 1) as process:
        await process.health.check()
        assert process.health.serving is serves


async def test_who_leaves_the_line_is_refused_at_the_seats_within_a_second(
    client: Client, settings: InventorySettings
) -> None:
    request = client.request(1, 3)
    token = AdmissionToken.decode(KeyRing.parse(ADMISSION_KEYS), request.admission_token)
    fact = queue_pb.QueueEvent(id="1-1-0", event_id=client.event_id)
    fact.place_left.user_id, fact.place_left.admission_token_id = 1, token.token_id
    fact.place_left.admission_expire_time.FromMilliseconds(token.expire_time_ms)
    async with open_event_log(settings.eventlog_url) as log, log.writer() as writer:
        record = queue_pb.QueueEvents(events=[fact]).SerializeToString()
        await writer.append(topics.QUEUE_EVENTS, str(client.event_id), record)
    left = time.monotonic()

    async def refused() -> bool:
        request.idempotency_key = f"key-{time.monotonic_ns()}"
        try:
            await client.bookings.Reserve(request, metadata=signed_in(1))
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)[0] == "ADMISSION_INVALID"
        return False

    assert await eventually(refused, timedelta(seconds=5))
    assert time.monotonic() - left < 1
    await client.reserve(2, 4)


async def test_events_are_listed_and_read_by_anyone(client: Client) -> None:
    listed = await client.events.ListEvents(event_pb.ListEventsRequest())
    read = await client.events.GetEvent(event_pb.GetEventRequest(event_id=client.event_id))
    assert list(listed.events) == [read.event]
    assert listed.next_page_token == ""
    assert (read.event.seats_total, read.event.price_from.amount) == (60, 44_000)
    assert read.event.sale_state == event_pb.Event.SALE_STATE_OPEN
    seat_map = (await client.events.GetSeatMap(event_pb.GetSeatMapRequest(event_id=client.event_id))).seat_map
    assert [(section.section_id, section.first_index) for section in seat_map.sections] == [("F", 0), ("B", 40)]
    assert await reason_of(client.events.GetEvent(event_pb.GetEventRequest(event_id=99))) == "EVENT_NOT_FOUND"


async def test_a_sale_from_reservation_to_ticket(client: Client) -> None:
    reserved = await client.reserve(1, 3, 4)
    assert (reserved.status, reserved.amount.amount, reserved.replayed) == (S.STATE_PENDING, 132_000, False)
    watch = client.bookings.WatchBooking(pb.WatchBookingRequest(booking_id=reserved.booking_id), metadata=signed_in(1))
    seen: list[int] = []
    async for update in watch:
        seen.append(update.booking.state)
        if update.booking.state == S.STATE_RESERVED:
            paid = await client.pay(1, reserved.booking_id)
            assert paid.booking.payment_state == S.PAYMENT_STATE_PAID
    assert seen[-2:] == [S.STATE_RESERVED, S.STATE_CONFIRMED]

    async def taken() -> bool:
        request = event_pb.GetAvailabilityRequest(event_id=client.event_id)
        answer = await client.events.GetAvailability(request)
        return bool(answer.taken[0] == 0b00011000 and answer.seats_left == 58)

    assert await eventually(taken)
    again = await client.reserve(1, 3, 4)
    assert (again.replayed, again.status, again.booking_id) == (True, S.STATE_CONFIRMED, reserved.booking_id)


async def test_a_cancelled_booking_gives_its_seats_back_at_once(client: Client) -> None:
    booking_id = await client.reserved(1, 3)
    request = pb.CancelBookingRequest(booking_id=booking_id, idempotency_key="cancel-01")
    first = await client.bookings.CancelBooking(request, metadata=signed_in(1))
    again = await client.bookings.CancelBooking(request, metadata=signed_in(1))
    assert (first.booking.state, first.replayed, again.replayed) == (S.STATE_CANCELLED, False, True)
    await client.reserved(2, 3)
    assert await reason_of(client.pay(1, booking_id)) == "BOOKING_NOT_PAYABLE"


async def test_a_declined_card_leaves_the_seats_reserved(client: Client) -> None:
    booking_id = await client.reserved(1, 3)
    assert await reason_of(client.pay(1, booking_id, "tok_decline")) == "PAYMENT_DECLINED"
    assert (await client.pay(1, booking_id, key="pay-00002")).booking.state == S.STATE_CONFIRMED


async def test_a_booking_of_someone_else_is_not_there(client: Client) -> None:
    booking_id = await client.reserved(1, 3)
    read = pb.GetBookingRequest(booking_id=booking_id)
    cancel = pb.CancelBookingRequest(booking_id=booking_id, idempotency_key="cancel-01")
    watch = client.bookings.WatchBooking(pb.WatchBookingRequest(booking_id=booking_id), metadata=signed_in(2))
    for call in (
        client.bookings.GetBooking(read, metadata=signed_in(2)),
        client.bookings.CancelBooking(cancel, metadata=signed_in(2)),
        client.pay(2, booking_id),
        anext(aiter(watch)),
    ):
        assert await reason_of(call) == "BOOKING_NOT_FOUND"
    for made_up in ("1-x", "nonsense", booking_id[:-1], "1-" + "a" * 26):
        request = pb.GetBookingRequest(booking_id=made_up)
        assert await reason_of(client.bookings.GetBooking(request, metadata=signed_in(1))) == "BOOKING_NOT_FOUND"


async def test_a_batch_answers_each_item_for_itself(client: Client) -> None:
    without_token = client.request(2, 6)
    without_token.admission_token = ""
    without_key = client.request(3, 7, key="")
    items = [
        pb.BatchReserveItem(request=client.request(1, 5), user_id=1),
        pb.BatchReserveItem(request=without_token, user_id=2),
        pb.BatchReserveItem(request=without_key, user_id=3),
        pb.BatchReserveItem(request=client.request(4, 5), user_id=4),
        pb.BatchReserveItem(request=client.request(5, 8), user_id=6),
        pb.BatchReserveItem(request=client.request(7, best=2), user_id=7),
    ]
    answer = await client.bookings.BatchReserve(pb.BatchReserveRequest(items=items))
    reasons = [from_status(each.error)[0] if each.HasField("error") else "OK" for each in answer.results]
    assert reasons == [
        "OK",
        "ADMISSION_REQUIRED",
        "IDEMPOTENCY_KEY_REQUIRED",
        "SEATS_TAKEN",
        "ADMISSION_INVALID",
        "OK",
    ]


async def test_a_batch_is_neither_empty_nor_endless(client: Client) -> None:
    item = pb.BatchReserveItem(request=client.request(1, 5), user_id=1)
    for items in ([], [item] * 257):
        call = client.bookings.BatchReserve(pb.BatchReserveRequest(items=items))
        assert await reason_of(call) == "INVALID_ARGUMENT"


async def test_reserving_takes_an_account(client: Client) -> None:
    assert await reason_of(client.bookings.Reserve(client.request(1, 3))) == "UNAUTHENTICATED"
    for_someone_else = client.bookings.Reserve(client.request(1, 3), metadata=signed_in(2))
    assert await reason_of(for_someone_else) == "ADMISSION_INVALID"


async def test_bookings_are_listed_newest_first_in_pages(client: Client) -> None:
    made = [await client.reserved(1, seat, key=f"key-0000{seat}") for seat in (1, 2, 3)]
    await client.reserved(2, 9)
    listed: list[str] = []
    token = ""
    for _ in range(2):
        request = pb.ListBookingsRequest(page_size=2, page_token=token)
        page = await client.bookings.ListBookings(request, metadata=signed_in(1))
        listed += [booking.booking_id for booking in page.bookings]
        token = page.next_page_token
    assert listed == made[::-1]
    assert token == ""
    for wrong in (pb.ListBookingsRequest(page_token="x"), pb.ListBookingsRequest(page_size=101)):
        assert await reason_of(client.bookings.ListBookings(wrong, metadata=signed_in(1))) == "INVALID_ARGUMENT"
