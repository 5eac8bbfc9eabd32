"""What the dashboard asks for is there: a real Prometheus scrapes the running stack and answers every panel."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.local.packages import PROMETHEUS, debian_environment, debian_packages
from deploy.local.services import SERVICES
from deploy.local.stack import Stack
from tests.e2e.shop import Shop, new_key
from tests.support import eventually

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"


@pytest.fixture
async def prometheus(whole_stack: Stack, tmp_path: Path) -> AsyncIterator[str]:
    for file in FOLDER.glob("*.yml"):
        shutil.copy(file, tmp_path)
    targets = [whole_stack.site.address(spec.name, "metrics") for spec in SERVICES]
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": targets}]))
    config = (tmp_path / "prometheus.yml").read_text().replace("_interval: 5s", "_interval: 1s")
    (tmp_path / "prometheus.yml").write_text(config)
    prefix = debian_packages(PROMETHEUS)
    address = whole_stack.site.address("prometheus", "http")
    process = await asyncio.create_subprocess_exec(
        prefix / "usr/bin/prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
        env=debian_environment(prefix),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


async def answer(session: aiohttp.ClientSession, url: str, expression: str) -> list[Any]:
    async with session.get(f"{url}/api/v1/query", params={"query": expression}) as response:
        if response.status == 503:  # Prometheus is still reading its folder
            return []
        body = await response.json()
        assert body["status"] == "success", body
        found: list[Any] = body["data"]["result"]
        return found


async def one_purchase(shop: Shop) -> None:
    """Something for every panel: a booking paid, a push, a refusal."""
    event_id, person = await shop.seed(), await shop.sign_up()
    device = {"device_token": f"telemetry-{person.user_id}", "platform": "IOS"}
    await shop.ok("POST", "/api/notifications/register", person=person, json_body=device)
    booking = await shop.reserve(person, event_id, await shop.admit(person, event_id))
    stream = f"/api/tickets/status/stream?booking_id={booking['booking_id']}"
    async with shop.session.get(stream, headers=person.headers) as followed:
        assert await followed.content.readline()
    body = {"booking_id": booking["booking_id"], "payment_method": "tok_approve"}
    await shop.ok("POST", "/api/tickets/pay", person=person, headers=new_key(), json_body=body)
    await shop.call("GET", "/api/events/999999")


@pytest.mark.slow
async def test_every_panel_gets_data_and_no_alert_fires(shop: Shop, prometheus: str) -> None:
    panels = json.loads((FOLDER / "on-sale.dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 20

    async def scraped() -> bool:
        try:
            return len(await answer(shop.session, prometheus, "up == 1")) == len(SERVICES)
        except aiohttp.ClientConnectionError:  # Prometheus itself is still starting
            return False

    await eventually(scraped, within=timedelta(seconds=30))
    await one_purchase(shop)

    async def all_answered() -> bool:
        silent = [e for e in expressions if not await answer(shop.session, prometheus, e)]
        assert silent == []
        return True

    await eventually(all_answered, within=timedelta(seconds=45))
    firing = await answer(shop.session, prometheus, 'ALERTS{alertstate="firing"}')
    assert firing == []
