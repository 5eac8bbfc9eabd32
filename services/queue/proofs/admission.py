"""The names of admissions, as their tokens bear them."""

import hashlib
from datetime import datetime

from services.queue.line.times import to_ms


def token_id(event_id: int, user_id: int, score: int, since: datetime) -> str:
    """The same for every token of one admission, which began then, and never again."""
    text = f"boxoffice.admission|{event_id}|{user_id}|{score}|{to_ms(since)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
