"""How keys are spelled. All of an event share the hash tag `{event_id}`: one node of a cluster has them."""

from collections.abc import Sequence
from typing import Final

from services.common.lua import Keys, Script

# The events that are ticked; one set for all.
ACTIVE: Final = b"queue:active"
# Lanes, by number, as scripts name them. Their number is fixed, since a script must declare every key.
LANE_NAMES: Final[Sequence[str]] = ("users", "lane_1", "lane_2", "lane_3")

_SPELLED: Final = {name: f"users:{lane}" for lane, name in enumerate(LANE_NAMES) if lane}


def line_key(event_id: int, name: str) -> bytes:
    """A key of an event's line by the name that scripts use; "users" is the sorted set of the product document."""
    return f"queue:{{{event_id}}}:{_SPELLED.get(name, name)}".encode()


def line_keys(script: Script, event_id: int) -> Keys:
    """The keys that a script takes, of one event."""
    return {name: line_key(event_id, name) for name in script.header.keys}
