"""EventService."""

from typing import Any

from boxoffice.inventory.v1 import event_service_pb2 as pb
from boxoffice.inventory.v1 import event_service_pb2_grpc as rpc
from grpc.aio import ServicerContext

from services.common.clock import Clock
from services.inventory.api import packing
from services.inventory.availability import Availability
from services.inventory.catalog import FIRST_PAGE, Catalog

Context = ServicerContext[Any, Any]


class EventApi(rpc.EventServiceServicer):
    """Events and their seats, as everyone sees them."""

    def __init__(self, catalog: Catalog, availability: Availability, clock: Clock) -> None:
        self._catalog = catalog
        self._availability = availability
        self._clock = clock

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        size = packing.page_size(request.page_size)
        after = packing.parse_page_token(request.page_token, int) or FIRST_PAGE
        # One more than is told says whether there is another page.
        sales = await self._catalog.sales(size + 1, after)
        last = sales[size - 1].event if len(sales) > size else None
        now = self._clock.now()
        return pb.ListEventsResponse(
            events=[packing.event(sale, now) for sale in sales[:size]],
            next_page_token=packing.page_token(last.sale_open_time, last.event_id) if last else "",
        )

    async def GetEvent(self, request: pb.GetEventRequest, context: Context) -> pb.GetEventResponse:
        sale = await self._catalog.sale(request.event_id)
        return pb.GetEventResponse(event=packing.event(sale, self._clock.now()))

    async def GetSeatMap(self, request: pb.GetSeatMapRequest, context: Context) -> pb.GetSeatMapResponse:
        sale = await self._catalog.sale(request.event_id)
        return pb.GetSeatMapResponse(
            seat_map=packing.seat_map(sale.seat_map, sale.event.currency), etag=f'"{sale.seat_map.version}"'
        )

    async def GetAvailability(self, request: pb.GetAvailabilityRequest, context: Context) -> pb.GetAvailabilityResponse:
        picture = await self._availability.picture(request.event_id)
        return pb.GetAvailabilityResponse(
            version=picture.progress.version,
            taken=picture.taken,
            seats_left=picture.progress.left,
            seats_total=picture.progress.total,
            etag=picture.etag,
        )
