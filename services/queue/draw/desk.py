"""What is told about draws: how far one is, who took part, and receipts."""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Final

from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.clock import Clock, SystemClock
from services.common.draw import SCORE_BITS
from services.common.errors import InvalidArgument
from services.queue.catalog import EventCatalog
from services.queue.draw.book import DrawBook
from services.queue.draw.outcome import DrawState, DrawView
from services.queue.line.domain import Place, PlaceNotFound, PlaceState
from services.queue.proofs.receipt import PublicKey, ReceiptKeys

_LARGEST_PAGE: Final = 10_000
# The event, and the place in its list at which the next page begins: a list never changes, so that pages never shift.
_PAGE_TOKEN: Final = struct.Struct(">qq")
_STATES: Final = {state: pb.GetDrawResponse.State.Value(f"STATE_{state.name}") for state in DrawState}


class DrawDesk:
    """The draws of all events, as anyone may ask about them."""

    def __init__(
        self,
        book: DrawBook,
        catalog: EventCatalog,
        keys: ReceiptKeys,
        place_of: Callable[[int, int], Awaitable[Place]],
        clock: Clock | None = None,
    ) -> None:
        self._book = book
        self._catalog = catalog
        self._keys = keys
        self._place_of = place_of
        self._clock = clock or SystemClock()

    async def draw(self, event_id: int) -> pb.GetDrawResponse:
        """How far the draw is; all of it once it is held. Raises EventNotFound."""
        await self._catalog.sale(event_id)
        commitment, view = await self._book.commitment(event_id), await self._book.view(event_id)
        return _message(event_id, commitment, view, self._keys.published())

    async def entrants(self, event_id: int, page_size: int, page_token: str) -> pb.ListEntrantsResponse:
        """A page of who took part. Raises EventNotFound, DrawNotHeld, InvalidArgument."""
        await self._catalog.sale(event_id)
        if not 0 <= page_size <= _LARGEST_PAGE:
            raise InvalidArgument("page_size", f"1 to {_LARGEST_PAGE}")
        start = _start(event_id, page_token)
        users, lanes = await self._book.entrants(event_id, start, page_size or _LARGEST_PAGE)
        view = await self._book.view(event_id)
        end = start + len(users)
        return pb.ListEntrantsResponse(
            entrants=[f"{user} {lane}" for user, lane in zip(users, lanes, strict=True)],
            next_page_token=_token(event_id, end) if users and end < view.entrant_count else "",
        )

    async def receipt(self, event_id: int, user_id: int) -> str:
        """A receipt of someone's place as it is now, that anyone can verify. Raises EventNotFound, PlaceNotFound."""
        place = await self._place_of(event_id, user_id)
        if place.state is PlaceState.LEFT:  # nothing was promised to who gave up
            raise PlaceNotFound
        outcome = await self._book.outcome(event_id)
        commitment = await self._book.commitment(event_id)
        took_part = place.in_draw or 0 < place.score < 1 << SCORE_BITS
        claims: dict[str, object] = {
            "event_id": event_id,
            "user_id": user_id,
            "lane": place.lane.number,
            "entered": place.join_us,
            "commitment": commitment.hex(),
            "in_draw": took_part,
            # What follows may change: people leave, and passes lead into other lanes.
            "iat": int(self._clock.now().timestamp()),
        }
        if outcome and took_part and not place.in_draw:
            claims |= {"score": place.score, "list_digest": outcome.list_digest.hex()}
        return self._keys.sign(claims)


def _message(event_id: int, commitment: bytes, view: DrawView, keys: list[PublicKey]) -> pb.GetDrawResponse:
    message = pb.GetDrawResponse(
        event_id=event_id,
        state=_STATES[view.state],
        commitment=commitment.hex(),
        entrant_count=view.entrant_count,
        receipt_keys=[pb.ReceiptKey(kty="OKP", crv="Ed25519", kid=key.kid, x=key.x) for key in keys],
    )
    if view.close_time:
        close_time = Timestamp()
        close_time.FromDatetime(view.close_time)
        message.close_time.CopyFrom(close_time)
    if view.outcome:
        message.list_digest = view.outcome.list_digest.hex()
        message.seed = view.outcome.seed.hex()
        message.draw_key = view.outcome.key.hex()
    return message


def _token(event_id: int, start: int) -> str:
    return urlsafe_b64encode(_PAGE_TOKEN.pack(event_id, start)).rstrip(b"=").decode()


def _start(event_id: int, page_token: str) -> int:
    if not page_token:
        return 0
    try:
        _, start = _PAGE_TOKEN.unpack(urlsafe_b64decode(page_token + "=" * (-len(page_token) % 4)))
    except (ValueError, struct.error):
        start = -1
    if start < 0 or _token(event_id, start) != page_token:  # one spelling, of this event
        raise InvalidArgument("page_token", "not a token of this list")
    return int(start)
