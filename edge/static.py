"""Fixed documents: the pages of `edge/web`, the OpenAPI document, the explorer. All are in memory, with ETags."""

import hashlib
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

WEB: Final = Path(__file__).with_name("web")

# Names do not change with their content, so a browser asks each time and is told 304: old and new never mix.
_REVALIDATE: Final = "no-cache"
# Pages load their own files and talk to their own API, and nobody frames them.
PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_NOT_MODIFIED: Final = 304


@dataclass(frozen=True)
class Document:
    """Content that stays as it is while the process runs."""

    content: bytes
    media_type: str
    csp: str = ""
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", hashlib.sha256(self.content).hexdigest()[:32])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers with the content, or with 304 where the client has it."""
        headers = {hdrs.CACHE_CONTROL: _REVALIDATE, hdrs.ETAG: f'"{self.etag}"'}
        if self.csp:
            headers[hdrs.CONTENT_SECURITY_POLICY] = self.csp
        known = request.if_none_match or ()
        if any(tag.value in {self.etag, "*"} for tag in known):
            return web.Response(status=_NOT_MODIFIED, headers=headers)
        return web.Response(body=self.content, headers=headers | {hdrs.CONTENT_TYPE: self.media_type})


def page_routes(folder: Path = WEB) -> Iterator[web.RouteDef]:
    """Routes of the pages: index.html at /, and what is in assets. None when there are no pages."""
    index, assets = folder / "index.html", folder / "assets"
    if index.is_file():
        yield web.get("/", _read(index).handle)
    for file in sorted(assets.rglob("*")):
        # Only what was there at the start, so that no path of a request is ever looked up on the disk.
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(assets).parts):
            yield web.get(f"/assets/{file.relative_to(assets).as_posix()}", _read(file).handle)


def _read(file: Path) -> Document:
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    is_text = media_type.startswith("text/") or media_type.endswith(("javascript", "json"))
    return Document(file.read_bytes(), f"{media_type}; charset=utf-8" if is_text else media_type, PAGE_CSP)
