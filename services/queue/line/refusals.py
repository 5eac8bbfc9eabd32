"""What a line does not do, and why. `reason` is a name of the catalogue, the text is told to the caller."""


class Refusal(Exception):
    """Something that the line does not do. `reason` is a name of the catalogue, the text is told to the caller."""

    reason: str
    text: str

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.text)


class EventNotFound(Refusal):
    """There is no such sale event."""

    reason, text = "EVENT_NOT_FOUND", "there is no such event"


class SaleClosed(Refusal):
    """Nobody may join: the sale is over, or an operator lets the line run empty."""

    reason, text = "SALE_CLOSED", "nobody can join this line any more"


class SoldOut(Refusal):
    """Every seat is sold."""

    reason, text = "SOLD_OUT", "every seat is sold"


class PlaceNotFound(Refusal):
    """The caller has no place in this line."""

    reason, text = "PLACE_NOT_FOUND", "join the line first"


class PlaceNotReady(Refusal):
    """The place is not called, or its claim window has closed."""

    reason, text = "PLACE_NOT_READY", "this place is not called, or was not claimed in time"


class PlaceInvalid(Refusal):
    """A signed place that is forged, or of another account or event."""

    reason, text = "PLACE_INVALID", "the signed place is not one of ours"


class LanePassInvalid(Refusal):
    """A lane pass that is forged, of another account or event, or of a lane that is not in use."""

    reason, text = "LANE_PASS_INVALID", "this pass does not open the lane"


class Drawing(Refusal):
    """The list of the draw is closed, and not everyone has a place yet: a matter of seconds."""

    reason, text = "UNAVAILABLE", "the draw is being held; try again"


class NotBuilt(Refusal):
    """The line is not in Redis: nobody has joined yet, or it was lost. It is to be built, and then asked again."""

    reason, text = "UNAVAILABLE", "the line is being built; try again"


class Fenced(Refusal):
    """Another loop ticks the line."""

    reason, text = "UNAVAILABLE", "another process ticks this line"
