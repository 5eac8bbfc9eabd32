"""What a draw comes to, and what is told about it: values, standard library only."""

import enum
from dataclasses import dataclass
from datetime import datetime

from services.common import draw


class DrawNotHeld(Exception):
    """The list and the order of a draw are told when it is held, not before."""

    reason = "DRAW_NOT_HELD"

    def __init__(self) -> None:
        super().__init__("the draw of this event has not been held")


class LineLost(Exception):
    """The line was lost while its draw was being held. The draw is held again when people have come back."""

    reason = "UNAVAILABLE"


class PromiseBroken(Exception):
    """The seed at hand is not the one that was promised. No draw is held with it: give the secret back."""

    reason = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the secret of draws is not the one that the commitment of this event was made with")


class DrawState(enum.Enum):
    """How far a draw is."""

    OPEN = enum.auto()
    DRAWING = enum.auto()
    HELD = enum.auto()


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed list: when, how many, and whether the draw is held already."""

    time: datetime
    entrant_count: int
    held: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a draw came to. Never changes, whatever is lost."""

    close_time: datetime
    entrant_count: int
    list_digest: bytes
    seed: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class DrawView:
    """A draw as anyone may see it: the outcome only once it is held."""

    state: DrawState
    entrant_count: int
    close_time: datetime | None
    outcome: Outcome | None


class Seeds:
    """The seed of every event, from one secret: a loss of Redis cannot lose what people were promised."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def seed(self, event_id: int) -> bytes:
        """What decides the draw together with the list. A secret until the draw is held."""
        return draw.seed(self._secret, event_id)

    def commitment(self, event_id: int) -> bytes:
        """What is promised of the seed."""
        return draw.commitment(self.seed(event_id))
