"""How a policy is kept: the fields of its hash."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.queue.line.domain import Mode, Policy
from services.queue.line.replies import lanes_of, lanes_text
from services.queue.line.times import span_ms

# Fields of the hash, and the attributes of Policy that they hold.
POLICY_ATTRIBUTES: Final = {
    b"mode": "mode",
    b"rate": "rate_per_second",
    b"cap": "inside_cap",
    b"claim_ms": "claim_window",
    b"admission_ms": "admission",
    b"lanes": "lanes",
}


def policy_fields(policy: Policy) -> dict[bytes, bytes]:
    """A policy as its hash holds it."""
    values = (
        policy.mode,
        policy.rate_per_second,
        policy.inside_cap,
        span_ms(policy.claim_window),
        span_ms(policy.admission),
        lanes_text(policy.lanes),
    )
    return {field: str(value).encode() for field, value in zip(POLICY_ATTRIBUTES, values, strict=True)}


def policy_of_fields(fields: Mapping[bytes, bytes]) -> Policy:
    """The policy that a whole hash holds. Raises PolicyOutOfRange, LanesInvalid, KeyError."""
    return Policy(
        mode=Mode(fields[b"mode"].decode()),
        rate_per_second=float(fields[b"rate"]),
        inside_cap=int(fields[b"cap"]),
        claim_window=timedelta(milliseconds=int(fields[b"claim_ms"])),
        admission=timedelta(milliseconds=int(fields[b"admission_ms"])),
        lanes=lanes_of(fields[b"lanes"]),
    )
