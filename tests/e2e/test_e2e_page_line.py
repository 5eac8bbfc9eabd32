"""What people read while they wait, in every state of the line, in Chromium; test_e2e_page.py has the real thing."""

import asyncio
import hashlib
import hmac
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from tests.e2e.browser import chromium
from tests.e2e.stage import LINE, USER, Stage, moment, place, stage
from tests.support import eventually, needed

ACCESSIBILITY = Path(__file__).with_name("accessibility")
PICTURES = Path(__file__).parents[2] / ".boxoffice" / "pictures"
PHONE: ViewportSize = {"width": 390, "height": 844}

SEED = bytes(range(32))
DIGEST = hashlib.sha256(b"1000042 0\n").digest()
KEY = hmac.digest(SEED, DIGEST, "sha256")
SCORE = int.from_bytes(hmac.digest(KEY, str(USER).encode(), "sha256")[:8]) >> 14
COMMITTED: dict[str, Any] = {"state": "OPEN", "commitment": hashlib.sha256(SEED).hexdigest(), "entrant_count": 48_210}
HELD: dict[str, Any] = {
    **COMMITTED,
    "state": "HELD",
    "seed": SEED.hex(),
    "list_digest": DIGEST.hex(),
    "draw_key": KEY.hex(),
    "close_time": moment(minutes=-1),
}


# Notes what a screen reader is given to say.
LISTEN = """
    window.spoken = [];
    const announcer = document.getElementById("announcer");
    new MutationObserver(() => spoken.push(announcer.textContent)).observe(announcer, {childList: true});
"""


@pytest.fixture
async def made() -> AsyncIterator[Stage]:
    async with stage() as made:
        yield made


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with chromium(tmp_path) as browser:
        yield browser


@pytest.fixture(scope="module")
def axe() -> str:
    """The script that finds what people with a screen reader, or poor eyes, would stumble over."""
    script = ACCESSIBILITY / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        npm = needed("npm", "to install axe-core")
        subprocess.run([npm, "ci", "--ignore-scripts"], cwd=ACCESSIBILITY, check=True, capture_output=True, timeout=300)
    return script.read_text()


async def open_line(browser: Browser, made: Stage, *, language: str = "ko", more: str = "", **options: Any) -> Page:
    """The page of somebody who is signed in and follows a link to the event."""
    context = await browser.new_context(base_url=made.url, viewport=PHONE, **options)
    session = f'{{"account":{{"user_id":{USER},"email":"a@example.com"}},"tokens":{{"access_token":"t"}}}}'
    kept = {"boxoffice.tokens": session, "boxoffice.language": language}
    for key, value in kept.items():
        await context.add_init_script(f"localStorage.setItem({key!r}, {value!r})")
    page = await context.new_page()
    await page.goto(f"/?event=7{more}")
    return page


STATES: dict[str, dict[str, Any]] = {
    "draw": {"sale_state": "SCHEDULED", "in_draw": True, "position": 0, "ahead": 0, "eta_p90_seconds": 0, "score": 0},
    "drawing": {"sale_state": "DRAWING", "in_draw": True, "position": 0, "ahead": 0},
    "waiting": {"score": SCORE},
    "lane": {
        "lane": 1,
        "lane_name": "팬클럽",
        "position": 42,
        "ahead": 41,
        "eta_p10_seconds": 20,
        "eta_p90_seconds": 190,
    },
    "odds": {"odds": 0.26, "seats_left": 1_204, "eta_p10_seconds": 5_400, "eta_p90_seconds": 9_000},
    "held": {"sale_state": "HELD"},
    "restoring": {"sale_state": "RESTORING"},
    "again": {"position": 1, "ahead": 0, "call_again_time": moment(minutes=3)},
    "called": {"state": "READY", "position": 0, "ahead": 0, "claim_expire_time": moment(minutes=3)},
    "sold-out": {"sale_state": "SOLD_OUT", "seats_left": 0},
    "closed": {"sale_state": "CLOSED"},
    "expired": {"state": "EXPIRED"},
    "done": {"state": "DONE"},
}
WORDS = {
    "draw": ("추첨에 참여하고", "take part in the draw"),
    "drawing": ("추첨하고 있어요", "being held"),
    "waiting": ("12–18분", "12–18 min"),
    "lane": ("전용 줄: 팬클럽", "4 min"),
    "odds": ("4번 중 1번", "1 in 4 chance"),
    "held": ("멈췄습니다", "paused"),
    "restoring": ("복구하고", "being restored"),
    "again": ("한 번 더 부릅니다", "call you once more at"),
    "called": ("차례가 되었습니다", "your turn"),
    "sold-out": ("매진", "Sold out"),
    "closed": ("판매가 끝났습니다", "sale is over"),
    "expired": ("입장 시간이 지났습니다", "time to come in is over"),
    "done": ("예매를 마쳤어요", "have booked"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("language", "colors"), [("ko", "light"), ("en", "dark")])
async def test_every_state_is_told_in_words_and_to_everybody(
    browser: Browser, made: Stage, axe: str, language: str, colors: str
) -> None:
    for name, told in STATES.items():
        made.stands(**told)
        made.event["sale_open_time"] = moment(minutes=12) if name == "draw" else moment(hours=-1)
        made.draw = COMMITTED if name == "draw" else HELD
        page = await open_line(browser, made, language=language, color_scheme=colors)
        await expect(page.locator("main")).to_contain_text(WORDS[name][language == "en"])
        if name == "draw":
            await expect(page.locator(".verify")).to_contain_text(COMMITTED["commitment"])
            await expect(page.locator("#position")).to_have_count(0)
        if name == "waiting":
            await page.locator("summary").click()
            await expect(page.locator(".proofs")).to_contain_text(HELD["seed"])
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        await page.evaluate(axe)
        found = await page.evaluate("axe.run()")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == [], name
        PICTURES.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=PICTURES / f"line-{name}-{language}.png", full_page=True)
        await page.context.close()


async def test_the_browser_checks_the_draw_itself(browser: Browser, made: Stage) -> None:
    made.stands(score=SCORE)
    made.draw = HELD
    page = await open_line(browser, made, language="en")
    await page.locator("summary").click()
    await expect(page.locator(".verify")).to_contain_text("the seed matches the hash")
    await expect(page.locator(".verify")).to_contain_text("Your own number follows")
    async with page.expect_download() as receipt:
        await page.get_by_role("button", name="Download my receipt").click()
    saved = await (await receipt.value).path()
    assert await asyncio.to_thread(saved.read_text) == "head.payload.signature"

    for draw, told in (
        ({**HELD, "seed": "ff" * 32}, "does not fit together"),
        ({**HELD, "entrant_count": 0}, "Nobody took"),
    ):
        made.draw = draw
        await page.reload()
        await page.locator("summary").click()
        await expect(page.locator(".verify")).to_contain_text(told)


async def _check(page: Page) -> Locator:
    """What the page says of the draw when it is loaded anew."""
    await page.reload()
    await page.locator("summary").click()
    return page.locator(".verify")


async def test_the_browser_keeps_what_was_promised_and_compares_it(browser: Browser, made: Stage) -> None:
    made.stands(score=SCORE)
    made.draw = HELD
    page = await open_line(browser, made, language="en")
    # Who comes after the opening cannot know what was promised before.
    await expect(await _check(page)).to_contain_text("Not checked against what was promised")

    made.stands(**STATES["draw"])
    made.event["sale_open_time"] = moment(minutes=12)
    made.draw = COMMITTED
    await page.reload()
    await expect(page.locator(".verify")).to_contain_text(COMMITTED["commitment"])
    made.stands(score=SCORE)
    made.event["sale_open_time"] = moment(hours=-1)
    made.draw = HELD
    await expect(await _check(page)).to_contain_text("the one that this browser kept")
    # Another seed, with everything that is published made to fit.
    seed = b"s" * 32
    key = hmac.digest(seed, DIGEST, "sha256").hex()
    made.draw = {**HELD, "seed": seed.hex(), "draw_key": key, "commitment": hashlib.sha256(seed).hexdigest()}
    told = await _check(page)
    await expect(told).to_contain_text("has been exchanged")
    await expect(told).to_contain_text(COMMITTED["commitment"])
    await expect(told).to_contain_text("Your own number does not follow")
    # And it is not taken for the promise by and by.
    made.draw = HELD
    await expect(await _check(page)).to_contain_text("the one that this browser kept")


async def test_a_lost_place_is_brought_back_by_its_proof(browser: Browser, made: Stage) -> None:
    made.stands()
    page = await open_line(browser, made)
    await expect(page.locator("#position")).to_have_text("12,345")
    assert made.joined == [{}]
    await eventually(lambda: made.is_followed)
    made.stands(sale_state="RESTORING")
    made.lose()
    await expect(page.locator("#note")).to_contain_text("복구하고")
    assert made.joined[1:] == [{"signed_place": "p1.signed.place"}]
    # Another life of the page, and a proof that is good no more.
    made.refuses(403, "PLACE_INVALID")
    await page.reload()
    await expect(page.locator("#position")).to_have_text("12,345")
    assert made.joined[2:] == [{"signed_place": "p1.signed.place"}, {}]


async def test_a_lane_pass_is_used_once_and_not_left_in_the_address(browser: Browser, made: Stage) -> None:
    made.stands(lane=1, lane_name="팬클럽")
    page = await open_line(browser, made, more="&lane_pass=p1.pass")
    await expect(page.locator("#lane")).to_contain_text("팬클럽")
    assert made.joined == [{"lane_pass": "p1.pass"}]
    assert page.url.endswith("/?event=7")
    await page.reload()
    await expect(page.locator("#lane")).to_contain_text("팬클럽")
    assert made.joined[1:] == [{"signed_place": "p1.signed.place"}]

    made.stands()
    made.refuses(403, "LANE_PASS_INVALID")
    await page.goto("/?event=7&lane_pass=p1.stolen")
    await expect(page.get_by_role("alert")).to_contain_text("일반 줄")
    await expect(page.locator("#position")).to_have_text("12,345")


async def test_a_challenge_is_answered_while_the_page_stays_alive(browser: Browser, made: Stage) -> None:
    made.stands()
    challenge = {"challenge": "p1.payload.mac", "kind": "proof_of_work", "difficulty": "16"}
    made.refuses(403, "CHALLENGE_REQUIRED", metadata=challenge)
    page = await open_line(browser, made, language="en")
    await expect(page.locator("#position")).to_have_text("12,345")
    (_, answered) = made.joined
    answer = answered["challenge_response"]
    assert answer.startswith("p1.payload.mac.")
    assert hashlib.sha256(answer.encode()).digest()[:2] == b"\0\0"


async def test_a_crowded_address_waits_and_tries_again_by_itself(browser: Browser, made: Stage) -> None:
    made.stands()
    made.refuses(429, "RATE_LIMITED", retry_after_ms=1_500, metadata={"limit": "address"})
    page = await open_line(browser, made)
    await expect(page.get_by_role("heading", level=1)).to_have_text("들어오는 사람이 많아요")
    await page.screenshot(path=PICTURES / "line-crowded-ko.png", full_page=True)
    await expect(page.locator("#position")).to_have_text("12,345")
    assert len(made.joined) == 2


async def test_who_missed_a_call_can_ask_to_be_called_at_once(browser: Browser, made: Stage) -> None:
    made.stands(position=1, ahead=0, call_again_time=moment(minutes=3))
    page = await open_line(browser, made)
    await expect(page.locator("main")).to_contain_text(re.compile(r"(오전|오후) \d+:\d\d에 한 번 더"))
    made.stands(state="READY", position=0, claim_expire_time=moment(minutes=3))
    await page.get_by_role("button", name="지금 불러 주세요").click()
    await expect(page.get_by_role("button", name="지금 예매하기")).to_be_visible()


async def test_from_the_draw_to_the_end_without_a_tap(browser: Browser, made: Stage) -> None:
    made.draw = COMMITTED
    made.stands(**STATES["draw"])
    page = await open_line(browser, made, language="en")
    await expect(page.locator("#entrants")).to_have_text("48,210")
    await eventually(lambda: made.is_followed)
    for name in ("drawing", "waiting", "held", "called", "again", "odds", "sold-out"):
        made.tell(**STATES[name])
        await expect(page.locator("main")).to_contain_text(WORDS[name][1])


async def test_numbers_are_not_read_aloud_more_often_than_every_ten_seconds(browser: Browser, made: Stage) -> None:
    made.stands(position=900)
    page = await open_line(browser, made, language="en")
    announcer = page.locator("#announcer")
    await expect(announcer).to_contain_text("900")
    await eventually(lambda: made.is_followed)
    spoken = (
        "window.spoken = []; new MutationObserver(() => spoken.push(document.getElementById('announcer').textContent))"
    )
    await page.evaluate(f"{spoken}.observe(document.getElementById('announcer'), {{childList: true}})")
    for position in (400, 190, 90, 40):
        made.tell(position=position)
        await expect(page.locator("#position")).to_have_text(str(position))
    assert await page.evaluate("spoken") == []
    # A turn is told at once.
    made.tell(state="READY", claim_expire_time=moment(minutes=3))
    await expect(announcer).to_have_text("It is your turn!")


async def test_leaving_gives_the_place_and_its_proof_up(browser: Browser, made: Stage) -> None:
    made.stands()
    page = await open_line(browser, made, language="en")
    await page.get_by_role("button", name="Leave the line").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Choose an event")
    assert f"DELETE {LINE}/me" in made.calls
    assert await page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('boxoffice.place'))") == []


def test_the_stage_speaks_as_the_contract_does() -> None:
    """A field that the contract does not know would make these tests true of nothing."""
    from boxoffice.queue.v1 import queue_service_pb2 as pb

    for told in STATES.values():
        assert set(place(**told)) <= set(pb.Place.DESCRIPTOR.fields_by_name)
    assert set(HELD) <= set(pb.GetDrawResponse.DESCRIPTOR.fields_by_name)
