"""The page at /docs: every operation and every problem code, made once from the OpenAPI document. No script."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from edge.problems import type_of
from services.common import errors

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8888 }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer }
.verb { display: inline-block; min-width: 4.5rem; font-weight: 700 }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
p { white-space: pre-line }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-top: 1px solid #8884 }
:target { outline: 2px solid Highlight }
"""


def content_security_policy() -> str:
    """Allows the page its own style and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"


def page(document: Mapping[str, Any], meanings: Mapping[str, str]) -> bytes:
    """The page. `meanings` explains each reason of the catalogue."""
    return "\n".join(_lines(document, meanings)).encode()


def _lines(document: Mapping[str, Any], meanings: Mapping[str, str]) -> Iterator[str]:
    info = document["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body><main>"
    yield f"<h1>{escape(info['title'])} API</h1><p>{escape(info['description'])}</p>"
    yield '<p>As a document for machines: <a href="/api/openapi.json">/api/openapi.json</a></p>'
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>"
        yield from _operations(document["paths"], tag["name"])
    yield "<h2>Problem codes</h2><table><tr><th>Code<th>Status<th>Meaning</tr>"
    for reason, meaning in meanings.items():
        anchor = type_of(reason).partition("#")[2]
        status = errors.mapping(reason).http_status
        yield f'<tr id="{anchor}"><td><code>{reason}</code><td>{status}<td>{escape(meaning)}</tr>'
    yield "</table></main></body></html>"


def _operations(paths: Mapping[str, Any], tag: str) -> Iterator[str]:
    for path, item in paths.items():
        for verb, operation in item.items():
            if tag in operation["tags"]:
                yield from _operation(verb.upper(), path, operation)


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="verb">{verb}</span>'
    yield f"<code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
    yield f"<p>{escape(operation['description'])}</p>"
    yield f"<p>{'Needs an access token.' if operation['security'] else 'Open to everyone.'}</p>"
    if rows := [*_parameter_rows(operation), *_body_rows(operation)]:
        yield "<table><tr><th>Field<th>In<th>Meaning</tr>"
        yield from rows
        yield "</table>"
    yield "<table><tr><th>Status<th>Meaning</tr>"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{status}<td><p>{escape(response['description'])}</p></tr>"
    yield "</table></details>"


def _parameter_rows(operation: Mapping[str, Any]) -> Iterator[str]:
    for parameter in operation.get("parameters", []):
        yield _row(parameter["name"], parameter["in"], parameter["description"], required=parameter["required"])


def _body_rows(operation: Mapping[str, Any]) -> Iterator[str]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for name, field in schema.get("properties", {}).items():
            yield _row(name, "body", field.get("description", ""), required=name in schema.get("required", []))


def _row(name: str, place: str, meaning: str, *, required: bool) -> str:
    mark = ", required" if required else ""
    return f"<tr><td><code>{escape(name)}</code><td>{place}{mark}<td>{escape(meaning)}</tr>"
