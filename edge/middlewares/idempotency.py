"""The `Idempotency-Key` header: a guard of the routes whose contract asks for it.

The edge only refuses what cannot be a key, before a body is read. What a key means is kept where the effect is.
"""

import re
from typing import Final

from aiohttp import web

from edge.transcode.problems import InvalidRequest, Violation
from services.common.errors import IdempotencyKeyRequired

HEADER: Final = "Idempotency-Key"

_KEY: Final = re.compile(r"[\x20-\x7e]{8,128}")


def require_key(request: web.Request) -> None:
    """Raises IdempotencyKeyRequired, or InvalidRequest for something that is not a key."""
    key = request.headers.get(HEADER)
    if not key:
        raise IdempotencyKeyRequired
    if _KEY.fullmatch(key) is None:
        raise InvalidRequest([Violation(HEADER, "must be 8 to 128 printable ASCII characters")])
