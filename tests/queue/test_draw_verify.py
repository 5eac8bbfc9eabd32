"""Verifying as a stranger: the command, the commands of the document, and whatever somebody might have changed."""

import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb

from edge.transcode.dump import DumperCompiler, to_json
from services.common import draw
from services.queue.draw.desk import DrawDesk
from services.queue.line.domain import Lane, Place, PlaceState, SaleState
from services.queue.proofs.receipt import ReceiptKeys
from tests.queue import draws
from tests.queue.draws import EVENT, JOINED_US, SALE, House, enter, house, key_of, people
from tests.queue.neighbours import RECEIPT_KEYS
from tests.queue.verifying import DOCUMENT, by_hand, verify

PEOPLE = people(range(300))
SOMEONE = sorted(PEOPLE)[100]
LATE = 2_000_000


@dataclass
class Published:
    """What anyone can read of a draw, as REST tells it, and some receipts."""

    draw: dict[str, Any]
    entrants: list[str]
    before: str
    after: str
    late: str
    # The same, signed with another key under the name of the right one.
    forged: str

    def changed(self, **fields: Any) -> "Published":
        return replace(self, draw={**self.draw, **fields})


class AnyEvent:
    async def sale(self, event_id: int) -> Any:
        del event_id


def _place(user_id: int, score: int) -> Place:
    waiting = Place(PlaceState.WAITING, 0, 0, 0, None, None, SaleState.OPEN, score, None)  # type: ignore[arg-type]
    return replace(waiting, lane=Lane(PEOPLE.get(user_id, 0), "", 1), join_us=JOINED_US, in_draw=score == 0)


def place_of(here: House) -> Callable[[int, int], Awaitable[Place]]:
    """Places as the line would tell them."""

    async def tell(_event_id: int, user_id: int) -> Place:
        key = await here.book.key(EVENT)
        drawn = draw.score(key, user_id) if key else 0
        return _place(user_id, JOINED_US if user_id == LATE else drawn)

    return tell


def _desk(here: House, keys: str = RECEIPT_KEYS) -> DrawDesk:
    return DrawDesk(here.book, AnyEvent(), ReceiptKeys.parse(keys), place_of(here))  # type: ignore[arg-type]


def _json(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(to_json(DumperCompiler().compile(message.DESCRIPTOR)(message)))
    return told


@pytest.fixture
async def published(redis_url: str) -> AsyncIterator[Published]:
    async with house(redis_url) as here:
        desk = _desk(here)
        await enter(here.redis, PEOPLE)
        before = await desk.receipt(EVENT, SOMEONE)
        await here.holder.run(EVENT, SALE)
        here.book._fresh.clear()
        forging = _desk(here, "r1:" + base64.b64encode(b"x" * 32).decode())
        told, listed = await desk.draw(EVENT), await desk.entrants(EVENT, 0, "")
        yield Published(
            _json(told),
            list(listed.entrants),
            before,
            await desk.receipt(EVENT, SOMEONE),
            await desk.receipt(EVENT, LATE),
            await forging.receipt(EVENT, SOMEONE),
        )


def _files(told: Published, folder: Path, receipt: str = "") -> list[str]:
    (folder / "draw.json").write_text(json.dumps(told.draw))
    (folder / "entrants.txt").write_text("".join(f"{line}\n" for line in told.entrants))
    arguments = ["--draw", str(folder / "draw.json"), "--entrants", str(folder / "entrants.txt")]
    if receipt:
        (folder / "receipt.txt").write_text(receipt + "\n")
        arguments += ["--receipt", str(folder / "receipt.txt")]
    return arguments


def test_a_draw_and_its_receipts_verify_offline(published: Published, tmp_path: Path) -> None:
    key = key_of(PEOPLE)
    own = [user for user, lane in PEOPLE.items() if lane == PEOPLE[SOMEONE]]
    place = draw.order((draw.score(key, user), user) for user in own).index(SOMEONE) + 1
    # Only what was kept from before the draw shows what was promised.
    for receipt, note in ((published.before, []), (published.after, ["NOTE"])):
        status, said = verify(*_files(published, tmp_path, receipt))
        assert (status, [line.split()[0] for line in said]) == (0, ["OK", "OK", *note, "INFO"])
        assert said[-1].endswith(f"place {place} of {len(own)} drawn in lane {PEOPLE[SOMEONE]}")
    status, said = verify(*_files(published, tmp_path, published.late), "--user", str(SOMEONE))
    assert status == 0
    assert f"account {LATE} is not in the list" in said[-1]


UNCHECKED = "NOTE    not checked against what was promised before the opening: give --commitment"


def _exchanged(told: Published) -> Published:
    """Another seed than was promised, with everything that is published made to fit."""
    return _with_seed(told).changed(commitment=draw.commitment(b"s" * 32).hex())


def test_a_seed_that_was_exchanged_afterwards_is_found_by_who_kept_the_promise(
    published: Published, tmp_path: Path
) -> None:
    promised, exchanged = published.draw["commitment"], _exchanged(published)
    fits = f"OK      the draw of event {EVENT} fits together: 300 people"
    # Nobody else can know, and that is said.
    assert verify(*_files(exchanged, tmp_path)) == (0, [fits, UNCHECKED])
    status, said = verify(*_files(exchanged, tmp_path), "--commitment", promised)
    assert (status, said) == (1, [f"FAILED  another commitment was promised before the opening: {promised}"])
    status, said = verify(*_files(published, tmp_path), "--commitment", promised.upper())
    assert (status, said) == (0, [f"OK      the draw of event {EVENT} is as promised: 300 people"])
    status, said = verify(*_files(published, tmp_path), "--commitment", promised[1:])
    assert (status, said) == (1, ["FAILED  the commitment that was kept is not 64 hexadecimal digits"])


@pytest.mark.parametrize("receipt", ["before", "after"])
def test_who_was_left_out_and_who_left_look_the_same_only_before_the_draw(
    published: Published, tmp_path: Path, receipt: str
) -> None:
    without = _with_list(published, _without(published, _listed(published)).entrants)
    status, said = verify(*_files(without, tmp_path, getattr(published, receipt)))
    if receipt == "after":  # the list was closed: nobody leaves it any more
        assert (status, said[0].split()[0]) == (1, "FAILED")
        assert "is not in the list" in said[0]
    else:
        assert (status, [line.split()[0] for line in said]) == (3, ["OK", "UNSURE", "INFO"])
        assert f"account {SOMEONE} took part as of 20" in said[1]
        assert "If its owner did not leave, the house has to answer" in said[1]


@pytest.mark.parametrize("receipt", ["before", "after"])
def test_who_moved_by_a_pass_accuses_nobody(published: Published, tmp_path: Path, receipt: str) -> None:
    claims = json.loads(base64.urlsafe_b64decode(getattr(published, receipt).split(".")[1] + "=="))
    elsewhere = ReceiptKeys.parse(RECEIPT_KEYS).sign({**claims, "lane": claims["lane"] + 1})
    status, said = verify(*_files(published, tmp_path, elsewhere))
    assert status == 3
    (unsure,) = [line for line in said if line.startswith("UNSURE")]
    assert f"and is listed in lane {claims['lane']}: a pass leads into another lane" in unsure
    # What else is wrong is not hidden by it.
    forged = ReceiptKeys.parse(RECEIPT_KEYS).sign({**claims, "lane": claims["lane"] + 1, "commitment": "00" * 32})
    assert verify(*_files(published, tmp_path, forged))[0] == 1


Tampering = Callable[[Published], Published]


def _without(told: Published, index: int) -> Published:
    lines = told.entrants[:index] + told.entrants[index + 1 :]
    return replace(told.changed(entrant_count=len(lines)), entrants=lines)


def _with_list(told: Published, lines: list[str]) -> Published:
    """A list of the house's choice, with everything but the commitment made to fit."""
    digest = draw.text_digest("".join(f"{line}\n" for line in lines))
    key = draw.draw_key(bytes.fromhex(told.draw["seed"]), digest)
    fitting = told.changed(list_digest=digest.hex(), draw_key=key.hex(), entrant_count=len(lines))
    return replace(fitting, entrants=lines)


def _listed(told: Published) -> int:
    return next(index for index, line in enumerate(told.entrants) if line.startswith(f"{SOMEONE} "))


def _with_seed(told: Published) -> Published:
    key = draw.draw_key(b"s" * 32, bytes.fromhex(told.draw["list_digest"]))
    return told.changed(seed=(b"s" * 32).hex(), draw_key=key.hex())


TAMPERED: dict[str, tuple[Tampering, str]] = {
    "an entrant": (lambda t: replace(t, entrants=[*t.entrants[:-1], "1000999 0"]), "not the one that was drawn from"),
    "a lane": (
        lambda t: replace(t, entrants=[t.entrants[0][:-1] + "3", *t.entrants[1:]]),
        "not the one that was drawn",
    ),
    "dropped": (lambda t: _without(t, 50), "not the one that was drawn from"),
    "dropped, all made to fit": (lambda t: _with_list(t, _without(t, _listed(t)).entrants), "is not in the list"),
    "added, all made to fit": (lambda t: _with_list(t, [*t.entrants, "1000999 0"]), "was told score"),
    "twice": (lambda t: _with_list(t, sorted([*t.entrants, t.entrants[0]], key=lambda s: int(s.split()[0]))), "ascend"),
    "nonsense": (lambda t: _with_list(t, [*t.entrants, "someone 0"]), "is not `account lane`"),
    "the count": (lambda t: t.changed(entrant_count=1), "told are 1"),
    "the seed": (lambda t: t.changed(seed="00" * 32), "not the one that was committed to"),
    "the seed, all made to fit": (_with_seed, "not the one that was committed to"),
    "the key": (lambda t: t.changed(draw_key="00" * 32), "the draw key is not"),
    "the commitment and the seed": (
        lambda t: _with_seed(t).changed(commitment=draw.commitment(b"s" * 32).hex()),
        "the receipt is of commitment",
    ),
    "another event": (lambda t: t.changed(event_id=8), "the receipt is of event_id"),
    "too early": (lambda t: t.changed(state="DRAWING"), "has not been held"),
    "no seed": (lambda t: t.changed(seed=""), "seed is not 64 hexadecimal digits"),
    "a forged receipt": (lambda t: replace(t, after=t.forged), "the receipt is forged"),
    "another key": (lambda t: t.changed(receipt_keys=[]), "the receipt is forged"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_is_changed_is_found(published: Published, tmp_path: Path, what: str) -> None:
    tamper, message = TAMPERED[what]
    changed = tamper(published)
    status, said = verify(*_files(changed, tmp_path, changed.after))
    assert status == 1
    assert not [line for line in said if line.startswith("OK")]
    assert any(message in line for line in said if line.startswith("FAILED")), said


@pytest.mark.parametrize("claim", ["user_id", "lane", "score", "entered"])
def test_a_receipt_whose_claims_were_changed_is_forged(published: Published, tmp_path: Path, claim: str) -> None:
    header, body, signature = published.after.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims[claim] += 1
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    status, said = verify(*_files(published, tmp_path, f"{header}.{changed}.{signature}"))
    assert status == 1
    assert "the receipt is forged" in said[0]


async def test_a_score_of_the_houses_choice_is_found(published: Published, tmp_path: Path) -> None:
    claims = json.loads(base64.urlsafe_b64decode(published.after.split(".")[1] + "=="))
    receipt = ReceiptKeys.parse(RECEIPT_KEYS).sign({**claims, "score": claims["score"] + 1})
    status, said = verify(*_files(published, tmp_path, receipt))
    assert status == 1
    assert "was told score" in said[0]


# --- over the network ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serving(told: Published, page_size: int) -> Iterator[str]:
    """What the edge answers, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == f"/api/events/{EVENT}/queue/draw":
                return self._answer(told.draw)
            if url.path != f"/api/events/{EVENT}/queue/draw/entrants":
                return self.send_error(404)
            start = int(parse_qs(url.query).get("page_token", ["0"])[0])
            rest = str(start + page_size) if start + page_size < len(told.entrants) else ""
            return self._answer({"entrants": told.entrants[start : start + page_size], "next_page_token": rest})

        def _answer(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_draw_verifies_over_the_network(published: Published) -> None:
    with _serving(published, 97) as url:
        status, said = verify("--url", url, "--event", str(EVENT))
        assert (status, said) == (0, [f"OK      the draw of event {EVENT} fits together: 300 people", UNCHECKED])
        status, said = verify("--url", url, "--event", "999")
        assert (status, said) == (1, [f"FAILED  there is no event 999 at {url}"])
    status, said = verify("--url", "http://127.0.0.1:9", "--event", str(EVENT))
    assert status == 1
    assert said[0].startswith("FAILED  ")


def test_the_command_says_what_it_needs() -> None:
    status, said = verify()
    assert (status, said) == (1, ["FAILED  give --url and --event, or --draw and --entrants"])


def test_the_commands_of_the_document_verify_a_draw(published: Published, tmp_path: Path) -> None:
    with _serving(published, 97) as url:
        said = by_hand(url, tmp_path, EVENT, SOMEONE, published.after, published.draw["commitment"])
    checks = [line for line in said if line.startswith(("right: ", "WRONG: "))]
    assert len(checks) == DOCUMENT.count('check "') + DOCUMENT.count('echo "right: the') == 9
    assert [line for line in checks if line.startswith("WRONG")] == []
    assert said[0] == "HELD"
    assert f"{SOMEONE} {PEOPLE[SOMEONE]}" in said
    assert f"score: {draw.score(key_of(PEOPLE), SOMEONE)}" in said


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [
        (lambda t: t.changed(seed="00" * 32), {"the seed is", "the key follows"}),
        (_with_seed, {"the seed is"}),
        (_exchanged, {"the commitment is the one that was promised", "the receipt has the commitment"}),
        (lambda t: t.changed(draw_key="11" * 32), {"the key follows"}),
        (lambda t: _without(t, 50), {"the list has its digest"}),
        (lambda t: replace(t, entrants=[*t.entrants[:-1], "1000999 0"]), {"the list has its digest"}),
        (lambda t: _with_list(t, sorted([*t.entrants, t.entrants[0]], key=lambda s: int(s.split()[0]))), {"nobody is"}),
        (lambda t: replace(t, after=t.forged), {"the receipt is signed"}),
    ],
)
def test_the_commands_of_the_document_find_what_was_changed(
    published: Published, tmp_path: Path, tamper: Tampering, wrong: set[str]
) -> None:
    changed = tamper(published)
    with _serving(changed, 1_000) as url:
        said = by_hand(url, tmp_path, EVENT, SOMEONE, changed.after, published.draw["commitment"])
    found = {line.removeprefix("WRONG: ") for line in said if line.startswith("WRONG")}
    assert all(any(line.startswith(start) for line in found) for start in wrong), said
    assert len(found) == len(wrong)


def test_the_commands_of_the_document_say_what_they_could_not_check(published: Published, tmp_path: Path) -> None:
    without = _with_list(published, _without(published, _listed(published)).entrants)
    with _serving(without, 1_000) as url:
        said = by_hand(url, tmp_path, EVENT, SOMEONE, published.before)
    assert "not checked against what was promised before the opening" in said
    assert [line for line in said if line.startswith("WRONG")] == []
    assert [line for line in said if line.startswith("unsure: ")]


def test_what_rest_tells_is_what_the_command_reads(published: Published) -> None:
    assert published.draw["state"] == "HELD"
    assert set(published.draw) >= {field.name for field in pb.GetDrawResponse.DESCRIPTOR.fields}
    assert published.draw["commitment"] == draw.commitment(draw.seed(draws.SECRET, EVENT)).hex()
