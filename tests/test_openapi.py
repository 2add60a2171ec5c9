"""The OpenAPI document is complete: every call, with parameters, bodies, answers, problems, schemas and examples."""

import re
from typing import Any

import msgspec
import pytest
from api_world import START_MS, World

from availability.api import examples, forms
from availability.api.openapi import problems_of
from availability.api.problems import PROBLEMS
from availability.api.service import ENDPOINTS
from availability.feeds.decoding import Undecodable, decode_event
from ledger import StockEvent

METHODS = ("get", "put", "post", "delete", "patch")

# DESIGN 9, as far as it is built: what a client may count on.
CONTRACT = {
    ("get", "/v1/atp"): {200},
    ("post", "/v1/atp"): {200},
    ("post", "/v1/reservations"): {201, 409, 422},
    ("get", "/v1/reservations"): {200},
    ("post", "/v1/reservations/batch"): {200},
    ("get", "/v1/reservations/{id}"): {200, 404},
    ("post", "/v1/reservations/{id}/extend"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/commit"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/release"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/pick"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/ship"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/cancel"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/return"): {200, 404, 409, 422},
    ("post", "/v1/reservations/{id}/move"): {200, 404, 409, 422},
    ("get", "/v1/operations/{key}"): {200, 404},
    ("post", "/v1/stock-events"): {200},
    ("put", "/v1/locations/{location}/counts/{count_id}"): {200, 404, 422},
    ("get", "/v1/views"): {200},
    ("put", "/v1/locations/{id}"): {200},
    ("get", "/v1/locations"): {200},
    ("put", "/v1/safety-stock"): {200, 422},
    ("get", "/v1/overcommitted"): {200},
    ("get", "/health/live"): {200},
    ("get", "/health/ready"): {200, 503},
    ("get", "/metrics"): {200},
    ("get", "/schema/openapi.json"): {200},
    ("get", "/.well-known/jwks.json"): {200},
}


@pytest.fixture(scope="module")
def document() -> Any:
    return msgspec.json.decode(World().api.edge.document)


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {(method, path): item[method] for path, item in document["paths"].items() for method in item}


def test_it_has_exactly_the_calls_of_the_contract_with_their_answers(document: Any) -> None:
    found = operations(document)

    assert set(CONTRACT) == set(found)
    for call, statuses in CONTRACT.items():
        documented = {int(status) for status in found[call]["responses"]}
        assert statuses <= documented, call
        if call[1].startswith("/v1/"):
            assert {400, 401, 403, 500, 503, 504} <= documented, call
        if "requestBody" in found[call]:
            assert {408, 413, 415} <= documented, call


def test_every_reference_leads_somewhere(document: Any) -> None:
    references = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', msgspec.json.encode(document).decode()))

    assert references == set(document["components"]["schemas"])


def test_every_answer_and_body_has_a_schema_and_an_example(document: Any) -> None:
    for call, operation in operations(document).items():
        for status, response in operation["responses"].items():
            for content_type, content in response["content"].items():
                assert content["schema"], (call, status)
                assert content.get("example") or content.get("examples"), (call, status)
                assert (content_type == "application/problem+json") == (int(status) >= 400)
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert content["schema"]
            assert content["example"]


def test_every_problem_that_is_declared_is_documented_with_its_example(document: Any) -> None:
    found = operations(document)
    for endpoint in ENDPOINTS:
        responses = found[endpoint.method.lower(), endpoint.path]["responses"]
        for name in problems_of(endpoint):
            kind = PROBLEMS[name]
            content = responses[str(kind.status)]["content"]["application/problem+json"]
            example = content["examples"][name]["value"]
            assert (f"/problems/{name}", kind.status) == (example["type"], example["status"])
            assert isinstance(kind.body, type)
            msgspec.convert(example, kind.body)


def test_every_example_of_a_body_is_one(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    for endpoint in ENDPOINTS:
        if endpoint.body_shown is not None:
            msgspec.convert(endpoint.body_example, endpoint.body_shown)


def test_a_stock_event_is_read_as_it_is_documented() -> None:
    full = {
        **examples.STOCK_EVENT,
        "kind": "move",
        "bucket": "damaged",
        "to_bucket": "quality_hold",
        "sequence": 7,
        "reason": "dented",
        "reference": {"reservation": "abcdefghijklmnopqrstuvwx", "line": 1},
    }
    shown = msgspec.convert(full, forms.StockEventForm)
    read = decode_event(msgspec.json.encode(shown), None, now_ms=START_MS)

    assert isinstance(read, StockEvent)
    assert (shown.id, shown.reason, 7, 1) == (read.id, read.reason, read.sequence, read.reference_line)
    for field in msgspec.structs.fields(forms.StockEventForm):
        wrong = decode_event(msgspec.json.encode(full | {field.name: []}), None, now_ms=START_MS)
        assert isinstance(wrong, Undecodable)
        assert f"$.{field.name}" in wrong.detail, "it is not read"
        if field.required:
            without = {name: value for name, value in full.items() if name != field.name}
            assert isinstance(decode_event(msgspec.json.encode(without), None, now_ms=START_MS), Undecodable)


def test_parameters_are_those_that_are_read(document: Any) -> None:
    found = operations(document)
    for endpoint in ENDPOINTS:
        parameters = found[endpoint.method.lower(), endpoint.path]["parameters"]
        by_place = {place: {p["name"] for p in parameters if p["in"] == place} for place in ("path", "query", "header")}
        assert by_place["path"] == set(re.findall(r"{(\w+)}", endpoint.path))
        assert by_place["header"] == ({"Idempotency-Key"} if endpoint.keyed else set())
        assert by_place["query"] == (set() if endpoint.query is None else set(endpoint.query.__struct_fields__))


def test_scopes_are_told(document: Any) -> None:
    found = operations(document)
    for endpoint in ENDPOINTS:
        security = found[endpoint.method.lower(), endpoint.path]["security"]
        assert security == ([] if endpoint.public else [{"token": [scope]} for scope in endpoint.scopes])


@pytest.mark.anyio
async def test_it_is_served(document: Any) -> None:
    answer = await World().call("GET", "/schema/openapi.json", token="")

    assert document == answer.json()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [b"1.0", b"1e0"])
async def test_whole_numbers_are_digits_as_it_says(document: Any, number: bytes) -> None:
    """For JSON Schema these two are integers."""
    said = number.decode() in document["info"]["description"]
    body = b'{"lines": [{"sku": "SHOE", "quantity": %s}]}'
    world = World()
    await world.stock()
    answers = [await world.call("POST", "/v1/reservations", raw=body % each) for each in (number, b"1")]

    assert (said, [answer.status_code for answer in answers]) == (True, [400, 201]), answers[0].text
