"""A draw verified through the real edge: what a stranger has is a URL."""

import asyncio
import json
from pathlib import Path

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.queue.draw.desk import DrawDesk
from services.queue.proofs.receipt import ReceiptKeys
from tests.edge.world import bearer, world
from tests.queue.draws import EVENT, SALE, enter, house, people
from tests.queue.neighbours import RECEIPT_KEYS
from tests.queue.test_draw_verify import AnyEvent, place_of
from tests.queue.verifying import by_hand, verify

# More than fit on one page.
PEOPLE = people(range(10_050))


async def test_a_draw_verifies_through_the_edge(redis_url: str, tmp_path: Path) -> None:
    someone = sorted(PEOPLE)[-7]
    async with house(redis_url) as here, world() as edge:
        desk = DrawDesk(here.book, AnyEvent(), ReceiptKeys.parse(RECEIPT_KEYS), place_of(here))  # type: ignore[arg-type]

        async def receipt(request: pb.GetReceiptRequest) -> pb.GetReceiptResponse:
            return pb.GetReceiptResponse(receipt=await desk.receipt(request.event_id, someone))

        scripts = edge.backend.scripts
        scripts["GetReceipt"] = receipt
        scripts["GetDraw"] = lambda request: desk.draw(request.event_id)
        scripts["ListEntrants"] = lambda asked: desk.entrants(asked.event_id, asked.page_size, asked.page_token)
        await enter(here.redis, PEOPLE)
        path = f"/api/events/{EVENT}/queue/draw"
        status, code, _ = await edge.problem("GET", f"{path}/entrants")
        assert (status, code) == (409, "DRAW_NOT_HELD")
        await here.holder.run(EVENT, SALE)
        here.book._fresh.clear()
        _, told, response = await edge.answer("GET", path)
        assert response.headers["Cache-Control"] == "public, max-age=1"
        assert told["state"] == "HELD"
        _, mine, _ = await edge.answer("GET", f"/api/events/{EVENT}/queue/me/receipt", headers=bearer(someone))
        (tmp_path / "receipt").write_text(mine["receipt"])
        kept = ("--receipt", str(tmp_path / "receipt"), "--commitment", told["commitment"])
        status, said = await asyncio.to_thread(verify, "--url", edge.url, "--event", str(EVENT), *kept)
        assert status == 0, said
        assert "10050 people" in said[0]
        said = await asyncio.to_thread(by_hand, edge.url, tmp_path, EVENT, someone, mine["receipt"])
        assert [line for line in said if line.startswith("WRONG")] == []
        assert len([line for line in said if line.startswith("right")]) == 8
        assert len(edge.backend.called("ListEntrants")) == 5
        assert json.loads((tmp_path / "draw.json").read_text()) == told
