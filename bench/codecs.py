"""What a JSON codec costs: ours, json_format, and the ceiling, in one run. python -m bench.codecs

The ceiling is orjson alone, into and from plain dicts, without any message: no codec can be faster than that.
"""

import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import cast

ROOT = Path(__file__).parents[1]
# So that the command works in a work tree where the stubs are not installed.
sys.path.insert(0, str(ROOT / "generated"))

import orjson  # noqa: E402 - after the path is set
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb  # noqa: E402
from boxoffice.inventory.v1 import event_service_pb2 as event_pb  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from google.protobuf.descriptor import Descriptor  # noqa: E402
from google.protobuf.message import Message  # noqa: E402

from edge.transcode.dump import DumperCompiler, to_json  # noqa: E402
from edge.transcode.parse import ParserCompiler, parse_object  # noqa: E402

_ROUNDS = 9
_SECONDS_PER_ROUND = 0.05


def microseconds(*calls: Callable[[], object]) -> list[float]:
    """The best of several rounds of each, taken in turns, so that whatever disturbs the machine disturbs all alike."""
    timers = [timeit.Timer(call) for call in calls]
    numbers = [max(1, int(_SECONDS_PER_ROUND / (timer.timeit(20) / 20))) for timer in timers]
    best = [float("inf")] * len(calls)
    for _ in range(_ROUNDS):
        for index, (timer, number) in enumerate(zip(timers, numbers, strict=True)):
            best[index] = min(best[index], timer.timeit(number) / number * 1e6)
    return best


def request() -> tuple[Message, list[str]]:
    """A reservation as buyers send it; the fields that travel in headers are named."""
    sample = booking_pb.ReserveRequest(event_id=12345, ticket_ids=[12345 << 20 | 17, 12345 << 20 | 18])
    return sample, ["idempotency_key", "admission_token"]


def responses() -> dict[str, Message]:
    reserved = booking_pb.ReserveResponse(
        booking_id="3039-abcdefghijklmnopqrstuvwxyz",
        status=booking_pb.Booking.STATE_PENDING,
        ticket_ids=[12345 << 20 | 17, 12345 << 20 | 18],
    )
    reserved.amount.amount, reserved.amount.currency = 220_000, "KRW"
    reserved.expires_at.FromMilliseconds(1_800_000_000_123)
    seats = event_pb.GetSeatMapResponse()
    for number in range(20):
        section = seats.seat_map.sections.add(section_id=f"S{number}", name=f"Section {number}", price_tier_id="A")
        for row in range(30):
            section.rows.add(name=str(row), first_index=number * 900 + row * 30, seat_count=30)
    return {"ReserveResponse": reserved, "GetSeatMapResponse, 600 rows": seats}


def parsing(message: Message, in_headers: list[str]) -> list[float]:
    """Compiled, json_format, ceiling."""
    kind = type(message)
    fill = ParserCompiler().compile(_type_of(message), dict.fromkeys(in_headers, "is a header"))
    body = orjson.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True) | _numbers(message))

    def parse() -> Message:
        made = kind()
        fill(parse_object(body), made, "", [])
        return made

    assert parse() == json_format.Parse(body, kind()) == message
    return microseconds(parse, lambda: json_format.Parse(body, kind()), lambda: orjson.loads(body))


def _numbers(message: Message) -> dict[str, object]:
    """json_format writes 64 bits as strings, but reads numbers too."""
    return {"event_id": message.event_id, "ticket_ids": list(message.ticket_ids)}  # type: ignore[attr-defined] # the request


def serializing(message: Message) -> list[float]:
    """Compiled, json_format, ceiling."""
    dump = DumperCompiler().compile(_type_of(message))
    plain = orjson.loads(to_json(dump(message)))
    return microseconds(
        lambda: to_json(dump(message)),
        lambda: json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None),
        lambda: orjson.dumps(plain),
    )


def _type_of(message: Message) -> Descriptor:
    return cast("Descriptor", message.DESCRIPTOR)


def main() -> None:
    head = f"µs, best of {_ROUNDS}"
    print(f"{head:40}{'compiled':>10}{'json_format':>13}{'faster':>8}{'orjson':>9}{'ceiling':>9}")
    rows = {"parse ReserveRequest": parsing(*request())}
    rows |= {f"serialize {name}": serializing(message) for name, message in responses().items()}
    for name, (compiled, reference, ceiling) in rows.items():
        print(f"{name:40}{compiled:10.2f}{reference:13.2f}{reference / compiled:7.1f}x", end="")
        print(f"{ceiling:9.2f}{compiled / ceiling:8.1f}x")


if __name__ == "__main__":
    main()
