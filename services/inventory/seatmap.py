"""Seat maps: immutable documents that say which seats a hall has, in which order, and what they cost."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from services.inventory.domain import SEAT_BITS

HALLS: Final = Path(__file__).parent / "halls"
_GENERATED_ROW: Final = 20
_GENERATED_PRICE: Final = 99_000


class InvalidSeatMap(ValueError):
    """The document is not a seat map."""


@dataclass(frozen=True, slots=True)
class PriceTier:
    """What a ticket costs, in minor units."""

    tier_id: str
    name: str
    price: int


@dataclass(frozen=True, slots=True)
class Row:
    """Adjacent seats, left to right; or the places of a standing area, of which any is next to any."""

    name: str
    first_index: int
    seat_count: int
    accessible_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a hall: rows of seats, front first, or one row of standing places."""

    section_id: str
    name: str
    tier: PriceTier
    standing: bool
    rows: tuple[Row, ...]

    @property
    def first_index(self) -> int:
        """Index of its first seat."""
        return self.rows[0].first_index

    @property
    def seat_count(self) -> int:
        """Its seats or places."""
        return sum(row.seat_count for row in self.rows)


@dataclass(frozen=True)
class SeatMap:
    """A hall. Seats are counted from 0 through all sections in order."""

    version: str
    name: str
    tiers: tuple[PriceTier, ...]
    sections: tuple[Section, ...]

    @cached_property
    def seats_total(self) -> int:
        """Seats and standing places in all."""
        return sum(section.seat_count for section in self.sections)

    @cached_property
    def price_from(self) -> int:
        """The cheapest ticket, in minor units."""
        return min(section.tier.price for section in self.sections)

    @cached_property
    def section_ids(self) -> frozenset[str]:
        """The ids of its sections."""
        return frozenset(section.section_id for section in self.sections)

    @cached_property
    def _starts(self) -> list[int]:
        return [section.first_index for section in self.sections]

    def has(self, seat_index: int) -> bool:
        """Whether there is such a seat."""
        return 0 <= seat_index < self.seats_total

    def price_of(self, seat_index: int) -> int:
        """Price of a seat that the map has, in minor units."""
        return self.sections[bisect_right(self._starts, seat_index) - 1].tier.price

    def price_of_all(self, seat_indexes: Iterable[int]) -> int:
        """Price of several seats."""
        return sum(map(self.price_of, seat_indexes))


def parse(document: str) -> SeatMap:
    """Reads a document (see services/inventory/halls/). Its version is derived from its content.

    Raises InvalidSeatMap.
    """
    try:
        content = json.loads(document)
        return _build(content, _version(content))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InvalidSeatMap(f"not a seat map: {error!r}") from error


def _version(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _build(content: Mapping[str, Any], version: str) -> SeatMap:
    tiers = {tier["id"]: PriceTier(tier["id"], tier["name"], tier["price"]) for tier in content["price_tiers"]}
    sections: list[Section] = []
    index = 0
    for entry in content["sections"]:
        section = _section(entry, tiers[entry["tier"]], index)
        index += section.seat_count
        sections.append(section)
    seat_map = SeatMap(version, content["name"], tuple(tiers.values()), tuple(sections))
    _check(seat_map)
    return seat_map


def _section(entry: Mapping[str, Any], tier: PriceTier, index: int) -> Section:
    standing = "standing" in entry
    rows = [{"name": "", "seats": entry["standing"]}] if standing else entry["rows"]
    return Section(entry["id"], entry["name"], tier, standing, tuple(_rows(rows, index)))


def _rows(entries: Sequence[Mapping[str, Any]], index: int) -> Iterable[Row]:
    for entry in entries:
        accessible = tuple(index + place for place in entry.get("accessible", ()))
        yield Row(entry["name"], index, entry["seats"], accessible)
        index += entry["seats"]


def _check(seat_map: SeatMap) -> None:
    rows = [row for section in seat_map.sections for row in section.rows]
    if not all(section.rows for section in seat_map.sections) or not rows or any(row.seat_count < 1 for row in rows):
        raise InvalidSeatMap("every section needs rows, and every row seats")
    if any(tier.price < 0 for tier in seat_map.tiers):
        raise InvalidSeatMap("a price is not negative")
    if len(seat_map.section_ids) != len(seat_map.sections):
        raise InvalidSeatMap("two sections have the same id")
    if any(not 0 <= at - row.first_index < row.seat_count for row in rows for at in row.accessible_indexes):
        raise InvalidSeatMap("an accessible seat is outside of its row")
    if seat_map.seats_total > 1 << SEAT_BITS:
        raise InvalidSeatMap(f"a hall has at most {1 << SEAT_BITS} seats")


def hall_document(name: str) -> str:
    """The document of a hall that comes with the service. Raises KeyError for an unknown name."""
    path = HALLS / f"{name}.json"
    if name not in hall_names():
        raise KeyError(name)
    return path.read_text(encoding="utf-8")


def hall_names() -> list[str]:
    """The halls that come with the service."""
    return sorted(path.stem for path in HALLS.glob("*.json"))


def generated_document(seats: int) -> str:
    """The document of a hall with exactly so many seats: one section, rows of 20, the last one shorter."""
    full, rest = divmod(seats, _GENERATED_ROW)
    sizes = [_GENERATED_ROW] * full + [rest] * (rest > 0)
    content = {
        "name": f"Hall of {seats}",
        "price_tiers": [{"id": "S", "name": "S석", "price": _GENERATED_PRICE}],
        "sections": [
            {
                "id": "A",
                "name": "A",
                "tier": "S",
                "rows": [{"name": str(number), "seats": size} for number, size in enumerate(sizes, 1)],
            }
        ],
    }
    return json.dumps(content, ensure_ascii=False)
