"""One purchase by hand in Chromium on a phone: sign up, event, line, seats, declined card, good card, ticket."""

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from deploy.local.stack import Stack
from tests.e2e.browser import chromium
from tests.e2e.shop import Shop

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
    assert await shop.seats_left(event_id) == 58

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
