"""The OpenAPI document, the explorer, and the pages."""

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from edge import static
from edge.transcode import openapi
from edge.transcode.contract import read_descriptors
from services.common import errors
from tests.edge.world import World, contract_of


@pytest.fixture(scope="module")
def document() -> Any:
    return openapi.document(contract_of())


def test_the_document_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_annotated_method_is_described(document: Any) -> None:
    described = {operation["operationId"] for item in document["paths"].values() for operation in item.values()}
    assert described == {operation.name for operation in contract_of().operations}
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"], operation["operationId"]
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (operation["operationId"], parameter["name"])


def _reserve(document: Any) -> Any:
    return document["paths"]["/api/tickets/reserve"]["post"]


def test_a_reservation_is_described_as_it_is(document: Any) -> None:
    operation = _reserve(document)
    assert operation["description"].startswith("Holds seats for the caller: all of them or none.")
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert parameters["Idempotency-Key"]["required"] is True
    assert parameters["X-Admission-Token"]["required"] is False
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"event_id", "ticket_ids", "best_available"}
    assert (body["required"], body["additionalProperties"]) == (["event_id"], False)
    success = operation["responses"]["202"]
    assert set(success["headers"]) == {"Idempotency-Replayed", "Location"}
    properties = success["content"]["application/json"]["schema"]["properties"]
    assert properties["status"]["$ref"].endswith("/inventory.Booking.State")
    assert "replayed" not in properties
    assert operation["security"] == [{"access_token": []}]


def _codes(operation: Any) -> dict[str, list[str]]:
    return {
        status: response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
        for status, response in operation["responses"].items()
        if "application/problem+json" in response.get("content", {})
    }


def test_problems_are_those_of_the_comment_and_of_the_declaration(document: Any) -> None:
    codes = _codes(_reserve(document))
    assert {"ADMISSION_REQUIRED", "ADMISSION_INVALID"} <= set(codes["403"])
    assert codes["401"] == ["TOKEN_EXPIRED", "UNAUTHENTICATED"]
    assert codes["422"] == ["IDEMPOTENCY_KEY_REUSED"]
    assert {"IDEMPOTENCY_KEY_REQUIRED", "MALFORMED_REQUEST", "MALFORMED_JSON", "INVALID_ARGUMENT"} == set(codes["400"])
    assert (codes["408"], codes["415"]) == (["BODY_TIMEOUT"], ["UNSUPPORTED_MEDIA_TYPE"])
    login = document["paths"]["/api/auth/login"]["post"]
    assert login["security"] == []
    assert _codes(login)["401"] == ["BAD_CREDENTIALS"]


def test_enums_have_their_names_without_prefix_and_their_meanings(document: Any) -> None:
    state = document["components"]["schemas"]["inventory.Booking.State"]
    assert state["enum"][:3] == ["UNSPECIFIED", "PENDING", "RESERVED"]
    assert "- `CONFIRMED`: Paid. Final." in state["description"]


def test_streams_and_etags(document: Any) -> None:
    stream = document["paths"]["/api/tickets/status/stream"]["get"]["responses"]
    assert set(stream["200"]["content"]) == {"text/event-stream"}
    assert "504" not in stream
    seat_map = document["paths"]["/api/events/{event_id}/seatmap"]["get"]["responses"]
    assert "304" in seat_map
    assert set(seat_map["200"]["headers"]) == {"ETag"}


def test_every_reference_resolves(document: Any) -> None:
    references = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert references <= set(document["components"]["schemas"])


async def test_the_document_is_served_with_its_etag(edge: World) -> None:
    status, told, response = await edge.answer("GET", "/api/openapi.json")
    assert (status, told["openapi"]) == (200, "3.1.0")
    condition = {"If-None-Match": response.headers["ETag"]}
    status, _, response = await edge.answer("GET", "/api/openapi.json", headers=condition)
    assert status == 304


async def test_the_explorer_lists_everything_offline(edge: World) -> None:
    async with edge.request("GET", "/docs") as response:
        page, policy = await response.text(), response.headers["Content-Security-Policy"]
    assert response.content_type == "text/html"
    for operation in contract_of().operations:
        assert f'id="{operation.name}"' in page
    for reason in openapi.descriptions(contract_of()):
        assert f'id="{reason}"' in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "style-src 'sha256-" in policy


def test_the_catalogue_is_explained() -> None:
    meanings = openapi.descriptions(contract_of())
    assert len(meanings) > 30
    assert all(meanings.values())
    assert all(errors.mapping(reason).title for reason in meanings)


def test_comments_survive_in_the_descriptor_set() -> None:
    assert any(file.source_code_info.location for file in read_descriptors().file)


async def test_the_first_page(edge: World) -> None:
    async with edge.request("GET", "/") as response:
        page, etag = await response.text(), response.headers["ETag"]
    assert "<html" in page
    assert response.headers["Cache-Control"] == "no-cache"
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    status, _, _ = await edge.answer("GET", "/", headers={"If-None-Match": etag})
    assert status == 304
    for asset in re.findall(r'(?:src|href)="(/assets/[^"]+)"', page):
        async with edge.request("GET", asset) as response:
            assert response.status == 200, asset
            assert response.content_type in {"text/javascript", "text/css", "image/svg+xml"}


def test_a_folder_without_pages_is_no_fault(tmp_path: Path) -> None:
    assert list(static.page_routes(tmp_path)) == []
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / ".hidden").write_text("no")
    (tmp_path / "assets" / "a.js").write_text("1")
    assert [route.path for route in static.page_routes(tmp_path) if isinstance(route, web.RouteDef)] == ["/assets/a.js"]
