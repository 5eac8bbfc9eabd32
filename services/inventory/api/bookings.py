"""BookingService."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from boxoffice.inventory.v1 import booking_service_pb2 as pb
from boxoffice.inventory.v1 import booking_service_pb2_grpc as rpc
from grpc.aio import ServicerContext

from services.common.caller import current_caller
from services.common.coalesce import Coalescer
from services.common.errors import InvalidArgument, to_status
from services.common.telemetry import current_traceparent
from services.common.validation import check_idempotency_key, check_required
from services.inventory.api import packing
from services.inventory.bookings import Bookings
from services.inventory.payments.flow import PaymentFlow
from services.inventory.reservation import Reservations, Result
from services.inventory.watch import Watchers
from services.inventory.wishes import Wish

Context = ServicerContext[Any, Any]

_LARGEST_BATCH: Final = 256


class BookingApi(rpc.BookingServiceServicer):
    """Reserving, paying, cancelling."""

    def __init__(
        self, reservations: Reservations, bookings: Bookings, payments: PaymentFlow, watchers: Watchers
    ) -> None:
        self._reservations = reservations
        self._bookings = bookings
        self._payments = payments
        self._watchers = watchers
        self._single = Coalescer(reservations.reserve_many, _LARGEST_BATCH, name="reserve")

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        wish = packing.wish(request, current_caller().user_id, current_traceparent())
        return packing.reserve_response(await self._single.submit(wish))

    async def BatchReserve(self, request: pb.BatchReserveRequest, context: Context) -> pb.BatchReserveResponse:
        if not 1 <= len(request.items) <= _LARGEST_BATCH:
            raise InvalidArgument("items", f"1 to {_LARGEST_BATCH} reservations")
        wishes = [_wish(item) for item in request.items]
        good = [wish for wish in wishes if isinstance(wish, Wish)]
        # Shielded: the holds of a caller that gives up shall be recorded or released, not left to end by themselves.
        outcomes = iter(await asyncio.shield(self._reserve(good)))
        results = [next(outcomes) if isinstance(wish, Wish) else wish for wish in wishes]
        return pb.BatchReserveResponse(results=[_result(result) for result in results])

    async def _reserve(self, wishes: Sequence[Wish]) -> list[Result]:
        return await self._reservations.reserve_many(wishes)

    async def GetBooking(self, request: pb.GetBookingRequest, context: Context) -> pb.GetBookingResponse:
        found = await self._bookings.find(request.booking_id, current_caller().user_id)
        return pb.GetBookingResponse(booking=packing.booking(found))

    async def WatchBooking(
        self, request: pb.WatchBookingRequest, context: Context
    ) -> AsyncIterator[pb.WatchBookingResponse]:
        async for booking in self._watchers.watch(request.booking_id, current_caller().user_id):
            yield pb.WatchBookingResponse(booking=packing.booking(booking))

    async def ListBookings(self, request: pb.ListBookingsRequest, context: Context) -> pb.ListBookingsResponse:
        size = packing.page_size(request.page_size)
        before = packing.parse_page_token(request.page_token, str)
        # One more than is told says whether there is another page.
        found = await self._bookings.of_user(current_caller().user_id, size + 1, before)
        last = found[size - 1] if len(found) > size else None
        return pb.ListBookingsResponse(
            bookings=[packing.booking(booking) for booking in found[:size]],
            next_page_token=packing.page_token(last.create_time, last.booking_id) if last else "",
        )

    async def PayBooking(self, request: pb.PayBookingRequest, context: Context) -> pb.PayBookingResponse:
        paid = await self._payments.pay(
            request.booking_id, current_caller().user_id, request.payment_method, request.idempotency_key
        )
        return pb.PayBookingResponse(booking=packing.booking(paid.row), replayed=paid.replayed)

    async def CancelBooking(self, request: pb.CancelBookingRequest, context: Context) -> pb.CancelBookingResponse:
        cancelled, replayed = await self._bookings.cancel(request.booking_id, current_caller().user_id)
        return pb.CancelBookingResponse(booking=packing.booking(cancelled), replayed=replayed)


def _wish(item: pb.BatchReserveItem) -> Wish | Exception:
    try:
        check_idempotency_key(item.request)
        check_required(item.request)
        return packing.wish(item.request, item.user_id, item.traceparent)
    except Exception as refusal:  # noqa: BLE001 - whatever it is, it concerns one item
        return refusal


def _result(result: Result) -> pb.BatchReserveResult:
    if isinstance(result, Exception):
        return pb.BatchReserveResult(error=to_status(result))
    return pb.BatchReserveResult(response=packing.reserve_response(result))
