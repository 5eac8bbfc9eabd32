"""One purchase by hand in Chromium on a phone: sign up, event, line, seats, declined card, good card, ticket."""

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from deploy.local.stack import Stack
from services.common.redis import open_redis
from tests.e2e.browser import chromium
from tests.e2e.shop import Shop
from tests.support import eventually

# Where the pictures of the last run go, to be looked at.
PICTURES = Path(__file__).parents[2] / ".boxoffice" / "pictures"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
async def page(whole_stack: Stack, tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path) as browser:
        context = await browser.new_context(base_url=whole_stack.url("edge"), viewport=PHONE, locale="ko-KR")  # type: ignore[arg-type] # a plain dict of the right shape
        page = await context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page
        # A refused card is told by status 402, which the browser notes as a failed resource.
        assert [p for p in problems if "402" not in p] == []


async def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


async def sign_up(page: Page) -> None:
    await page.get_by_label("이메일").fill(f"{secrets.token_hex(6)}@example.com")
    await page.get_by_label("비밀번호").fill("correct horse battery")
    await picture(page, "2-account")
    await page.get_by_role("button", name="가입하기").click()


async def test_a_whole_purchase_by_hand(page: Page, shop: Shop) -> None:
    event_id = await shop.seed("--hall", "club", "--name", "심야 재즈")
    operator = await shop.operator()
    policy = f"/api/events/{event_id}/queue/policy"
    await shop.ok("PATCH", policy, person=operator, json_body={"mode": "HOLD"})

    await page.goto("/")
    await expect(page.get_by_role("heading", level=1)).to_have_text("예매할 공연을 고르세요")
    await picture(page, "1-events")
    await page.goto(f"/?event={event_id}")
    await sign_up(page)

    await expect(page.locator("#position")).to_have_text("1")
    await expect(page.locator("#note")).to_contain_text("멈췄습니다")
    await picture(page, "3-line")
    await shop.ok("PATCH", policy, person=operator, json_body={"mode": "OPEN"})
    await page.get_by_role("button", name="지금 예매하기").click(timeout=15_000)

    await expect(page.get_by_role("heading", level=1)).to_have_text("좌석을 고르세요")
    await page.locator(".seat:not([disabled])").nth(0).click()
    await page.locator(".seat:not([disabled])").nth(1).click()
    await picture(page, "4-seats")
    await page.get_by_role("button", name="2석 예매하기").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("결제")
    await page.get_by_label("거절되는 카드").check()
    await page.get_by_role("button", name=re.compile("결제하기")).click()
    await expect(page.get_by_role("alert")).to_contain_text("거절")
    await picture(page, "5-declined")
    await page.get_by_label("승인되는 카드").check()
    await page.get_by_role("button", name=re.compile("결제하기")).click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("예매가 완료되었습니다")
    await expect(page.locator(".ticket")).to_contain_text("심야 재즈")
    await expect(page.locator(".ticket")).to_contain_text("플로어 1열 1번")
    await picture(page, "6-ticket")
    assert await shop.has_left(event_id, 58)

    booking_id = await page.locator(".ticket code").text_content()
    await page.goto(f"/?event={event_id}&booking={booking_id}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("예매가 완료되었습니다")


async def test_the_other_language_and_best_available(page: Page, shop: Shop) -> None:
    event_id = await shop.seed("--hall", "theatre", "--name", "Evening Concert")
    await page.goto(f"/?event={event_id}")
    await page.get_by_role("button", name="English").click()
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await page.get_by_label("E-mail").fill(f"{secrets.token_hex(6)}@example.com")
    await page.get_by_label("Password").fill("correct horse battery")
    await page.get_by_role("button", name="Sign up").click()
    await page.get_by_role("button", name="Book now").click(timeout=15_000)
    await page.get_by_label("Tickets").select_option("3")
    await picture(page, "7-theatre-en")
    await page.get_by_role("button", name="Find seats").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Payment")
    await expect(page.locator(".seats li")).to_have_count(3)
    await page.get_by_role("button", name="Cancel booking").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
    await picture(page, "8-cancelled-en")


async def test_the_page_keeps_the_place_after_a_reload(page: Page, shop: Shop) -> None:
    event_id = await shop.seed()
    operator = await shop.operator()
    await shop.ok("PATCH", f"/api/events/{event_id}/queue/policy", person=operator, json_body={"mode": "HOLD"})
    first = await shop.sign_up()
    await page.goto(f"/?event={event_id}")
    await sign_up(page)
    await expect(page.locator("#position")).to_have_text("1")
    await shop.ok("POST", f"/api/events/{event_id}/queue", person=first, json_body={})
    await page.reload()
    await expect(page.locator("#position")).to_have_text("1")
    await expect(page.locator("#waiting")).to_contain_text("2")


@pytest.mark.slow
async def test_from_the_draw_to_the_seats_by_hand(page: Page, shop: Shop) -> None:
    # Long enough to sign up and look around on a busy machine.
    event_id = await shop.seed("--hall", "club", "--name", "새벽 추첨", "--opens-in", "20")
    policy, line = f"/api/events/{event_id}/queue/policy", f"/api/events/{event_id}/queue"
    operator = await shop.operator()
    await shop.ok("PATCH", policy, person=operator, json_body={"mode": "HOLD"})
    await shop.ok("POST", line, person=await shop.sign_up(), json_body={})
    commitment = (await shop.ok("GET", f"{line}/draw"))["commitment"]

    await page.goto(f"/?event={event_id}")
    await sign_up(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("순서 추첨에 참여하고 있어요")
    await expect(page.locator("#entrants")).to_have_text("2 명", timeout=10_000)
    await expect(page.locator(".verify")).to_contain_text(commitment)
    await expect(page.locator("#position")).to_have_count(0)
    await picture(page, "9-draw")

    await expect(page.locator("#position")).to_have_text(re.compile("^[12]$"), timeout=60_000)
    await expect(page.locator("#note")).to_contain_text("멈췄습니다")
    await page.locator("summary").click()
    await expect(page.locator(".verify")).to_contain_text(commitment)
    await expect(page.locator(".verify")).to_contain_text("이 브라우저가 확인했습니다")
    await expect(page.locator(".verify")).to_contain_text("내 번호도")
    async with page.expect_download() as receipt:
        await page.get_by_role("button", name="내 영수증 내려받기").click()
    assert (await receipt.value).suggested_filename == "receipt.jws"
    await picture(page, "10-drawn")

    # A reload finds the place, and an operator opens the line.
    position = await page.locator("#position").text_content()
    await page.reload()
    await expect(page.locator("#position")).to_have_text(position or "")
    await shop.ok("PATCH", policy, person=operator, json_body={"mode": "OPEN"})
    await page.get_by_role("button", name="지금 예매하기").click(timeout=30_000)
    await expect(page.get_by_role("heading", level=1)).to_have_text("좌석을 고르세요")


async def test_the_page_brings_its_place_back_after_a_loss_of_redis(page: Page, shop: Shop, whole_stack: Stack) -> None:
    event_id = await shop.seed()
    operator = await shop.operator()
    line = f"/api/events/{event_id}/queue"
    await shop.ok("PATCH", f"{line}/policy", person=operator, json_body={"mode": "HOLD"})
    await shop.ok("POST", line, person=await shop.sign_up(), json_body={})
    await page.goto(f"/?event={event_id}")
    await sign_up(page)
    await expect(page.locator("#position")).to_have_text("2")

    async with open_redis(whole_stack.site.redis_url(1)) as redis:
        await redis.flushdb()
    # Somebody without a proof is there first, and still stands behind.
    late = await shop.sign_up()

    async def joined() -> bool:
        return (await shop.call("POST", line, person=late, json_body={})).status < 300

    await eventually(joined)
    await expect(page.locator("#position")).to_have_text("1", timeout=30_000)
    await picture(page, "11-restored")

    async def behind() -> bool:
        return bool((await shop.ok("GET", f"{line}/me", person=late))["place"]["position"] == 2)

    await eventually(behind)
