"""A buyer's phone: the REST API as a real HTTP client sees it, with every answer timed."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from deploy.local.demo.tally import Tally


class Problem(Exception):
    """A problem+json answer."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(body.get("code", ""))
        self.retry_after = float(body.get("retry_after_ms", 500)) / 1000
        super().__init__(f"{status} {self.code}: {body.get('detail', '')}")


@dataclass(slots=True)
class Client:
    """One person's connection to the edge. `token` is set by signing up."""

    session: aiohttp.ClientSession
    base_url: str
    tally: Tally
    token: str = ""

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        headers = dict(extra or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timed: str | None = None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Sends one request; answers (JSON, headers). Raises Problem; counts a server fault of any kind."""
        started = time.perf_counter()
        async with self.session.request(
            method, self.base_url + path, json=body, headers=self._headers(headers)
        ) as response:
            answer = json.loads(await response.read() or b"{}")
            if timed and response.ok:
                self.tally.timed(timed, time.perf_counter() - started)
            if response.ok:
                return answer, response.headers
            if response.status >= 500 or response.content_type != "application/problem+json":  # noqa: PLR2004
                self.tally.server_fault(
                    f"{method} {path.split('?', maxsplit=1)[0]} → {response.status} {answer.get('code')}"
                )
            raise Problem(response.status, answer)

    async def follow(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Follows a stream of server-sent events until the server ends it."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.session.get(self.base_url + path, headers=self._headers(None), timeout=timeout) as response:
            if not response.ok:
                raise Problem(response.status, json.loads(await response.read() or b"{}"))
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
