"""Chromium out of its Debian package, wherever that was unpacked, driven by Playwright."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from deploy.local.packages import BROWSER, debian_environment, debian_packages

# Quiet and alone: no sandbox (CI runs as root), no calls to anybody's servers.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _fonts(prefix: Path, home: Path) -> Path:
    """A fontconfig file that adds the package's fonts to the system's."""
    config = home / "fonts.conf"
    config.write_text(
        f"""<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
        <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
        <dir>/usr/share/fonts</dir><dir>{prefix}/usr/share/fonts</dir><cachedir>{home}/fontcache</cachedir>
        </fontconfig>"""
    )
    return config


@asynccontextmanager
async def chromium(home: Path) -> AsyncIterator[Browser]:
    """A headless browser whose profile, caches and fonts live in `home`."""
    prefix = debian_packages(BROWSER)
    environment = debian_environment(prefix) | {"FONTCONFIG_FILE": str(_fonts(prefix, home)), "HOME": str(home)}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=prefix / "usr/lib/chromium/chromium", args=list(FLAGS), env=dict(environment)
        )
        try:
            yield browser
        finally:
            await browser.close()
