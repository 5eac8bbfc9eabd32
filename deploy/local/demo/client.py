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
        super().__init__(f"{status} {self.code}: {body.get('detail', '')}")


@dataclass(slots=True)
class Client:
    """One person's connection to the edge. `token` is set by signing up.

    `address` is where they are at home: the edge believes this machine about it, as it would a proxy of ours.
    """

    session: aiohttp.ClientSession
    base_url: str
    tally: Tally
    token: str = ""
    address: str = ""

    def _headers(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        headers = dict(extra or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.address:
            headers["X-Forwarded-For"] = self.address
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
            answer = _json(await response.read())
            if timed and response.ok:
                self.tally.timed(timed, time.perf_counter() - started)
            if response.ok:
                return answer, response.headers
            route = path.partition("?")[0]
            raise self._refused(f"{method} {route}", response.status, answer)

    async def follow(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Follows a stream of server-sent events until the server ends it. Raises Problem, also in mid-stream."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.session.get(self.base_url + path, headers=self._headers(None), timeout=timeout) as response:
            if not response.ok:
                raise self._refused("stream", response.status, _json(await response.read()))
            kind = b"message"
            async for line in response.content:
                field, _, value = line.strip().partition(b":")
                if field == b"event":
                    kind = value.strip()
                elif field == b"data":
                    told = _json(value)
                    if kind == b"problem":
                        raise self._refused("stream", int(told.get("status", 500)), told)
                    yield told
                elif not line.strip():
                    kind = b"message"

    def _refused(self, what: str, status: int, body: Mapping[str, Any]) -> Problem:
        """The problem to raise; a fault of the server's is counted, since no request should get one."""
        if status >= 500 or "code" not in body:  # noqa: PLR2004 - the class of server faults
            self.tally.server_fault(f"{what} → {status} {body.get('code')}")
        return Problem(status, body)


def _json(body: bytes) -> dict[str, Any]:
    """The document, or an empty one when it is no JSON object."""
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
