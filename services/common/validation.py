"""Checks that the contracts declare on fields, compiled once per message type.

Only presence is declared there; what a value may be is a rule of the domain.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor
from google.protobuf.message import Message

from services.common.errors import IdempotencyKeyRequired, InvalidArgument
from services.common.policies import Method

# What is missing in a message, as a dotted path; "" when nothing is.
_Finder = Callable[[Message], str]

_KEY_FIELD: Final = "idempotency_key"
_SHORTEST_KEY: Final = 8
_LONGEST_KEY: Final = 128


def compile_checks(method: Method) -> Callable[[Message], None]:
    """Everything that the contract of `method` demands of a request, as one function that raises typed errors."""
    _finders(method.request)
    if not method.takes_idempotency_key:
        return check_required

    def check(message: Message) -> None:
        check_idempotency_key(message)
        check_required(message)

    return check


def check_required(message: Message) -> None:
    """Raises InvalidArgument for the first required field that is missing.

    Messages in singular fields are checked as well. Those in repeated fields are not: the items of a batch are judged
    one by one, by calling this for each.
    """
    for find in _finders(message.DESCRIPTOR):
        missing = find(message)
        if missing:
            raise InvalidArgument(missing, f"{missing} is required")


def check_idempotency_key(message: Message) -> None:
    """Raises IdempotencyKeyRequired when the key is missing, InvalidArgument when it is not 8–128 printable ASCII."""
    key: str = getattr(message, _KEY_FIELD)
    if not key:
        raise IdempotencyKeyRequired
    if not (_SHORTEST_KEY <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidArgument(_KEY_FIELD, "idempotency_key must be 8 to 128 printable ASCII characters")


@cache
def _finders(message: descriptor.Descriptor) -> tuple[_Finder, ...]:
    return tuple(finder for field in message.fields for finder in _finders_of(field))


def _finders_of(field: descriptor.FieldDescriptor) -> Iterator[_Finder]:
    if field.GetOptions().Extensions[options_pb2.field].required:
        yield _presence(field)
    if field.message_type is not None and not field.is_repeated and _finders(field.message_type):
        yield _within(field)


def _presence(field: descriptor.FieldDescriptor) -> _Finder:
    name = field.name
    if field.has_presence:
        return lambda message: "" if message.HasField(name) else name
    return lambda message: "" if getattr(message, name) else name


def _within(field: descriptor.FieldDescriptor) -> _Finder:
    name = field.name

    def find(message: Message) -> str:
        if not message.HasField(name):
            return ""
        inner = getattr(message, name)
        missing = next(filter(None, (find_inner(inner) for find_inner in _finders(inner.DESCRIPTOR))), "")
        return missing and f"{name}.{missing}"

    return find
