"""What queue knows of events, whatever becomes of inventory."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from services.queue import catalog as catalog_module
from services.queue.catalog import EventCatalog
from services.queue.line.domain import EventNotFound
from tests.queue.calls import EVENT
from tests.queue.neighbours import Neighbours


async def test_what_inventory_said_last_stands_while_it_is_away(around: Neighbours) -> None:
    from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc

    now = 0.0
    async with grpc.aio.insecure_channel(around.target) as channel:
        catalog = EventCatalog(inventory_rpc.EventServiceStub(channel), lambda: now)
        sales = await asyncio.gather(*(catalog.sale(EVENT) for _ in range(50)))
        assert around.asked == 1

        around.away = True
        now = 60.0
        assert await catalog.sale(EVENT) == sales[0]
        assert around.asked == 2
        with pytest.raises(Exception, match="looked up") as unknown:
            await catalog.sale(8)
        assert getattr(unknown.value, "reason", "") == "UNAVAILABLE"

        around.away = False
        around.events[EVENT].sale_close_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))
        now = 62.0
        assert (await catalog.sale(EVENT)).close_time > sales[0].close_time


async def test_made_up_events_push_out_no_real_one(around: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc

    for size in ("_MAX_EVENTS", "_MAX_MADE_UP"):
        monkeypatch.setattr(catalog_module, size, 2)
    now = 0.0
    async with grpc.aio.insecure_channel(around.target) as channel:
        catalog = EventCatalog(inventory_rpc.EventServiceStub(channel), lambda: now)
        # A real one is remembered for as long as it takes, also when it was asked for before there was such an event.
        hidden = around.events.pop(EVENT)
        with pytest.raises(EventNotFound):
            await catalog.sale(EVENT)
        around.events[EVENT], now = hidden, 60.0
        sale = await catalog.sale(EVENT)
        for made_up in range(1_000, 1_010):
            with pytest.raises(EventNotFound):
                await catalog.sale(made_up)
        around.away, now = True, 120.0
        assert await catalog.sale(EVENT) == sale
        assert len(catalog._made_up) <= 2
