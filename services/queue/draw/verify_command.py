"""`python -m services.queue verify-draw`: anyone verifies a draw, their place in it, and their receipt."""

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from services.queue.draw.verify import Draw, Unusable, receipt_user

_TIMEOUT_SECONDS: Final = 30
# 2 is what argparse ends with.
_GOOD, _WRONG, _UNSURE = 0, 1, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command takes."""
    source = parser.add_argument_group("where the draw comes from: --url and --event, or --draw and --entrants")
    source.add_argument("--url", help="the shop, for example https://tickets.example")
    source.add_argument("--event", type=int, help="the sale event")
    source.add_argument("--draw", type=Path, help="file: the answer of …/queue/draw")
    source.add_argument("--entrants", type=Path, help="file: one line `account lane` for each entrant")
    parser.add_argument("--user", type=int, help="tell this account's place, too")
    parser.add_argument(
        "--commitment", metavar="HEX", help="the commitment that was told before the opening, as you kept it"
    )
    receipts = "files: verify these receipts, too; one from before the opening has the commitment in it"
    parser.add_argument("--receipt", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=receipts)


def run(arguments: argparse.Namespace) -> int:
    """Verifies and tells; answers the exit status.

    0: everything fits. 1: something does not. 3: nothing is wrong, and a receipt says what only its owner can explain.
    """
    try:
        draw = _draw(arguments)
        receipts = [file.read_text().strip() for file in arguments.receipt]
        verdict = _judge(draw, arguments.commitment, receipts)
        places = [_place(draw, user_id) for user_id in _users(arguments.user, receipts)]
    except (Unusable, OSError, ValueError) as error:
        _say(f"FAILED  {error}")
        return _WRONG
    for line in (*verdict.lines(draw), *places):
        _say(line)
    return _WRONG if verdict.problems else _UNSURE if verdict.unsure else _GOOD


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What came out about a draw and the receipts that were given."""

    problems: list[str]
    unsure: list[str]
    # Receipts that show that they were kept.
    kept: int
    # Somebody had kept what was promised before the opening.
    is_promise_checked: bool

    def lines(self, draw: Draw) -> Iterator[str]:
        yield from (f"FAILED  {problem}" for problem in self.problems)
        if not self.problems:
            verdict = "is as promised" if self.is_promise_checked else "fits together"
            yield f"OK      the draw of event {draw.told.get('event_id')} {verdict}: {len(draw.lines)} people"
            if self.kept:
                yield f"OK      signed by the house, and kept: {self.kept} receipts"
        yield from (f"UNSURE  {each}" for each in self.unsure)
        if not self.is_promise_checked:
            yield "NOTE    not checked against what was promised before the opening: give --commitment"


def _judge(draw: Draw, commitment: str | None, receipts: Sequence[str]) -> _Verdict:
    findings = [draw.receipt_findings(receipt) for receipt in receipts]
    problems = draw.problems() + ([] if commitment is None else draw.promise_problems(commitment))
    problems += [problem for each in findings for problem in each.wrong]
    unsure = [change for each in findings for change in each.unsure]
    kept = sum(not (each.wrong or each.unsure) for each in findings)
    return _Verdict(problems, unsure, kept, commitment is not None or any(each.is_promise for each in findings))


def _users(asked: int | None, receipts: Sequence[str]) -> list[int]:
    users = [] if asked is None else [asked]
    return list(dict.fromkeys([*users, *map(receipt_user, receipts)]))


def _place(draw: Draw, user_id: int) -> str:
    place = draw.place(user_id)
    if place is None:
        return f"INFO    account {user_id} is not in the list of the draw"
    return (
        f"INFO    account {user_id} drew {place.score}: place {place.position} of {place.of} drawn in lane {place.lane}"
    )


def _draw(arguments: argparse.Namespace) -> Draw:
    if arguments.url and arguments.event is not None:
        return _download(arguments.url, arguments.event)
    if arguments.draw and arguments.entrants:
        return Draw(_object(arguments.draw.read_bytes()), arguments.entrants.read_text().splitlines())
    raise Unusable("give --url and --event, or --draw and --entrants")


def _download(url: str, event_id: int) -> Draw:
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise Unusable("the URL must begin with http:// or https://")
    base = f"{url.rstrip('/')}/api/events/{event_id}/queue/draw"
    try:
        told = _get(base)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            raise Unusable(f"there is no event {event_id} at {url}") from None
        raise
    if told.get("event_id") != event_id:
        raise Unusable(f"asked for event {event_id}, told of {told.get('event_id')!r}")
    lines: list[str] = []
    page_token = ""
    while told.get("state") == "HELD":
        page = _get(f"{base}/entrants?{urllib.parse.urlencode({'page_token': page_token} if page_token else {})}")
        lines += page.get("entrants", [])
        page_token = page.get("next_page_token", "")
        if not page_token or len(lines) > told.get("entrant_count", 0):
            break
    return Draw(told, lines)


def _get(url: str) -> Mapping[str, Any]:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - the scheme is checked
        return _object(response.read())


def _object(text: bytes) -> Mapping[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise Unusable("the draw is not a JSON object")
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
