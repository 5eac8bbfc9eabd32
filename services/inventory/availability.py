"""Which seats are free, read from Redis at most twice a second per event however many look."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.common import metrics
from services.inventory.catalog import Catalog
from services.inventory.domain import Progress
from services.inventory.fresh import Fresh
from services.inventory.holds import Holds
from services.inventory.picker import Picker

MAX_AGE: Final = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True)
class Picture:
    """The seats of an event at one moment. `taken` has one bit per seat, most significant bit first, 1 = taken."""

    progress: Progress
    taken: bytes

    @property
    def etag(self) -> str:
        """Identifies this state of the seats."""
        return f'"{self.progress.version:x}"'


class Availability:
    """The one reader of bitmaps, and the pickers that rank free blocks."""

    def __init__(self, catalog: Catalog, holds: Holds) -> None:
        self._catalog = catalog
        self._holds = holds
        self._pictures = Fresh(self._read, MAX_AGE)
        self._pickers: dict[int, tuple[Picture, Picker]] = {}

    async def picture(self, event_id: int, *, newest: bool = False) -> Picture:
        """The seats of a published event: at most half a second old, or read just now.

        Raises EventNotFound; Unavailable while they cannot be rebuilt.
        """
        await self._catalog.sale(event_id)
        return await self._pictures.get(event_id, max_age=timedelta() if newest else None)

    async def picker(self, event_id: int, *, newest: bool = False) -> tuple[Picture, Picker]:
        """A picker over a picture. It is shared: what one request marks, the next one does not see."""
        picture = await self.picture(event_id, newest=newest)
        known = self._pickers.get(event_id)
        if known is None or known[0] is not picture:
            sale = await self._catalog.sale(event_id)
            known = self._pickers[event_id] = picture, Picker(sale.seat_map, picture.taken)
        return known

    async def _read(self, event_id: int) -> Picture:
        progress, taken = await self._holds.seats(event_id)
        metrics.AVAILABILITY_READS.inc()
        return Picture(progress, taken)
