"""The pages in front of a made-up API: every state of the line can be had at once, and be looked at."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from edge import static

Json = dict[str, Any]
USER = 1_000_042
LINE = "/api/events/7/queue"


def moment(**ahead: float) -> str:
    """An RFC 3339 time so far from now."""
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat(timespec="seconds").replace("+00:00", "Z")


def place(state: str = "WAITING", sale_state: str = "OPEN", **more: Any) -> Json:
    """A place as the edge tells it."""
    common: Json = {
        "event_id": 7,
        "state": state,
        "sale_state": sale_state,
        "position": 12_345,
        "ahead": 12_344,
        "total_waiting": 48_210,
        "eta_p10_seconds": 735,
        "eta_p50_seconds": 900,
        "eta_p90_seconds": 1_070,
        "seats_left": 21_034,
        "poll_after_ms": 5_000,
        "lane": 0,
        "lane_name": "general",
        "score": 1_790_000_000_000_000,
        "in_draw": False,
        "join_time": moment(minutes=-5),
    }
    return {**common, **more}


@dataclass
class Stage:
    """What the API says. `joins` are the answers to joins, in turn, the last one again and again."""

    url: str = ""
    event: Json = field(default_factory=lambda: _event(moment(hours=-1)))
    joins: list[tuple[int, Json]] = field(default_factory=list)
    draw: Json = field(default_factory=dict)
    # Bodies of the joins that came.
    joined: list[Json] = field(default_factory=list)
    # What happened at the line besides joins.
    calls: list[str] = field(default_factory=list)
    _streams: list[asyncio.Queue[Json | None]] = field(default_factory=list)

    def stands(self, **told: Any) -> None:
        """Whoever joins stands here."""
        self.joins = [(201, {"place": place(**told), "signed_place": "p1.signed.place"})]

    def refuses(self, status: int, code: str, **more: Any) -> None:
        """The next join is refused, before what was said so far."""
        self.joins.insert(0, (status, {"title": code, "status": status, "code": code, "trace_id": "0" * 32, **more}))

    def tell(self, **told: Any) -> None:
        """News on every open stream."""
        for stream in self._streams:
            stream.put_nowait({"place": place(**told)})

    def lose(self) -> None:
        """Ends every stream with PLACE_NOT_FOUND, as after a loss of the line."""
        for stream in self._streams:
            stream.put_nowait(None)

    @property
    def is_followed(self) -> bool:
        """Whether somebody follows the line."""
        return bool(self._streams)

    async def join(self, request: web.Request) -> web.StreamResponse:
        self.joined.append(await request.json())
        status, body = self.joins.pop(0) if len(self.joins) > 1 else self.joins[0]
        return web.json_response(body, status=status)

    async def follow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        news: asyncio.Queue[Json | None] = asyncio.Queue()
        self._streams.append(news)
        try:
            while (told := await news.get()) is not None:
                await response.write(f"data: {json.dumps(told)}\n\n".encode())
            problem = {"status": 404, "code": "PLACE_NOT_FOUND", "title": "no place"}
            await response.write(f"event: problem\ndata: {json.dumps(problem)}\n\n".encode())
        finally:
            self._streams.remove(news)
        return response

    def answer(self, told: Callable[[], Json]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            self.calls.append(f"{request.method} {request.path}")
            return web.json_response(told())

        return handle


def _event(sale_open_time: str) -> Json:
    return {
        "event_id": 7,
        "name": "심야 재즈: 겨울밤의 콘서트",
        "venue": "서울 예술의 전당",
        "start_time": moment(days=30),
        "sale_open_time": sale_open_time,
        "seats_total": 50_000,
        "tickets_per_person": 4,
        "price_from": {"amount": 55_000, "currency": "KRW"},
    }


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Serves the pages and the made-up API."""
    made = Stage()
    app = web.Application()
    app.add_routes(static.page_routes())
    app.add_routes(
        [
            web.get("/api/events", made.answer(lambda: {"events": [made.event]})),
            web.get("/api/events/7", made.answer(lambda: {"event": made.event})),
            web.post(LINE, made.join),
            web.get(f"{LINE}/stream", made.follow),
            web.delete(f"{LINE}/me", made.answer(dict)),
            web.get(f"{LINE}/draw", made.answer(lambda: made.draw)),
            web.get(f"{LINE}/me/receipt", made.answer(lambda: {"receipt": "head.payload.signature"})),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
