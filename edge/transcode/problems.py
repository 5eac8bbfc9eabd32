"""What the transcoder refuses: contracts at start-up, requests at run time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.common.errors import BoxofficeError

# Enough to repair a request by; a hostile body must not make a long answer.
_MOST_VIOLATIONS: Final = 20
_LONGEST_PATH: Final = 100


class ContractError(Exception):
    """The contract asks for something that the edge cannot serve. Found at start-up."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request. The value is never told: it may be a secret."""

    # Where: a path like "items[2].name", or the name of a parameter or header.
    field: str
    detail: str


class InvalidRequest(BoxofficeError):
    """A request with one or more fields that cannot be taken."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        # A violation of no field is one of the body.
        where = f"{_shortened(first.field)}:" if first.field else "the body"
        super().__init__(f"{where} {first.detail}")
        self.violations = tuple(
            Violation(_shortened(violation.field), violation.detail) for violation in violations[:_MOST_VIOLATIONS]
        )


class MalformedJson(BoxofficeError):
    """The body is not JSON."""

    reason = "MALFORMED_JSON"


class BodyTooLarge(BoxofficeError):
    """The body is larger than the edge accepts."""

    reason = "BODY_TOO_LARGE"


class UnsupportedMediaType(BoxofficeError):
    """The body has a content type other than application/json, or is compressed."""

    reason = "UNSUPPORTED_MEDIA_TYPE"


class MalformedRequest(BoxofficeError):
    """The body is not what its headers promised. Usually the client has gone, and nobody reads this."""

    reason = "MALFORMED_REQUEST"


class BodyTimeout(BoxofficeError):
    """The body did not arrive in time."""

    reason = "BODY_TIMEOUT"


def _shortened(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else path[:_LONGEST_PATH] + "…"
