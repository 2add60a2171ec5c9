"""The OpenAPI 3.1 document, made from what the endpoints declare; none is declared without schema and example."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Struct

from availability.api.endpoint import SCOPES, Endpoint
from availability.api.problems import PROBLEMS, Problem

TITLE: Final = "Inventory availability and reservations"
VERSION: Final = "1"
DESCRIPTION: Final = (
    "Whole numbers (`integer`) are sent as digits, without a point or an exponent: `1.0` and `1e0`, which JSON Schema"
    " also takes for integers, are refused with `invalid-request`."
)
_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM_JSON: Final = "application/problem+json"
_OF_EVERY_TOKEN: Final = (
    *("unauthenticated", "forbidden", "rate-limited"),
    *("overloaded", "not-ready", "unknown", "internal-error"),
)
_OF_EVERY_BODY: Final = ("invalid-request", "too-large", "unsupported-media-type", "request-timeout")
_HEADERS: Final = {
    "Idempotency-Replayed": {
        "description": "`true` when the operation was done before, by an earlier request with this key.",
        "schema": {"type": "string", "const": "true"},
    },
    "RateLimit": {
        "description": "`r`: requests that this client may send now; `t`: seconds until it may send its whole burst, "
        "or after 429 the next one. Left out where there is no limit.",
        "schema": {"type": "string"},
        "example": '"client";r=19950;t=1',
    },
    "RateLimit-Policy": {
        "description": "`q` requests of a client in `w` seconds, of all processes together.",
        "schema": {"type": "string"},
        "example": '"client";q=20000;w=1',
    },
    "Retry-After": {"description": "Seconds until trying again makes sense.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "What kind of token is asked for.", "schema": {"type": "string"}},
}
_HEADERS_OF_STATUS: Final = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_OF_CLIENTS: Final = ("RateLimit", "RateLimit-Policy")
"""In every answer to a known client, but not in those that it gets before it is known."""


def problems_of(endpoint: Endpoint) -> list[str]:
    """Every problem that a call can end in: its own, and those that follow from what it declares."""
    names = list(endpoint.problems)
    if not endpoint.public:
        names += _OF_EVERY_TOKEN
    if endpoint.body is not None:
        names += _OF_EVERY_BODY
    else:
        names.append("invalid-request")
    if endpoint.keyed:
        names.append("missing-idempotency-key")
    return [name for name in PROBLEMS if name in names]


def any_answer_of(endpoint: Endpoint) -> dict[str, Any]:
    """The schema of every answer of another endpoint, for one whose own answers hold these."""
    shapes = [type(endpoint.success.example), *map(_problem_type, problems_of(endpoint))]
    return {"anyOf": [{"$ref": _REFERENCE.format(name=shape.__name__)} for shape in dict.fromkeys(shapes)]}


def document(endpoints: Sequence[Endpoint]) -> bytes:
    """The document as JSON."""
    shapes = _shapes(endpoints)
    schemas, components = msgspec.json.schema_components(shapes, ref_template=_REFERENCE)
    by_type = dict(zip(shapes, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_type)
    told = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": f"Scopes: {', '.join(SCOPES)}. Any one of those that a call names is enough.",
                }
            },
        },
    }
    return msgspec.json.encode(_with_portable_patterns(told))


def _with_portable_patterns(node: Any) -> Any:
    """Patterns as JSON Schema has them: ECMA has no other end than ``$``, which lets no trailing newline through."""
    if isinstance(node, dict):
        portable = {name: _with_portable_patterns(value) for name, value in node.items()}
        if isinstance(pattern := portable.get("pattern"), str):
            portable["pattern"] = re.sub(r"\\Z$", "$", pattern)
        return portable
    return [_with_portable_patterns(value) for value in node] if isinstance(node, list) else node


def _shapes(endpoints: Iterable[Endpoint]) -> list[type]:
    found: list[type] = [_problem_type(name) for name in PROBLEMS]
    for endpoint in endpoints:
        found += [type(endpoint.success.example)] if isinstance(endpoint.success.example, Struct) else []
        found += [] if endpoint.body_shown is None else [endpoint.body_shown]
    return list(dict.fromkeys(found))


def _problem_type(name: str) -> type:
    body = PROBLEMS[name].body
    assert isinstance(body, type)
    return body


def _operation(endpoint: Endpoint, schemas: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"[^a-z0-9]+", "_", endpoint.name.lower()).strip("_"),
        "summary": endpoint.summary.partition(". ")[0].partition(": ")[0],
        "description": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint, schemas),
        "security": [] if endpoint.public else [{"token": [scope]} for scope in endpoint.scopes],
    }
    if endpoint.body_shown is not None:
        assert endpoint.body_example is not None, f"{endpoint.name} has no example of its body"
        content = {"schema": schemas[endpoint.body_shown], "example": endpoint.body_example}
        operation["requestBody"] = {
            "required": not endpoint.body_optional,
            "content": {"application/json": content},
            "description": f"At most {endpoint.body_bytes_max} bytes.",
        }
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    if endpoint.keyed:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "Names the operation; the same key again is the same operation. Quotes are optional.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                "example": "cart-17-hold",
            }
        )
    if endpoint.query is not None:
        hints = get_type_hints(endpoint.query, include_extras=True)
        parameters += [
            {
                "name": field.encode_name,
                "in": "query",
                "required": field.required,
                "schema": msgspec.json.schema(hints[field.name]),
            }
            for field in msgspec.structs.fields(endpoint.query)
        ]
    return parameters


def _responses(endpoint: Endpoint, schemas: dict[type, dict[str, Any]]) -> dict[str, Any]:
    success = endpoint.success
    example = _plain(success.example)
    schema = schemas.get(type(success.example)) or {"type": "string" if isinstance(example, str) else "object"}
    responses: dict[str, Any] = {
        str(success.status): {
            "description": success.description,
            "headers": {name: _HEADERS[name] for name in success.headers + (() if endpoint.public else _OF_CLIENTS)},
            "content": {success.content_type: {"schema": schema, "example": example}},
        }
    }
    by_status: dict[int, list[str]] = {}
    for name in problems_of(endpoint):
        by_status.setdefault(PROBLEMS[name].status, []).append(name)
    for status, names in sorted(by_status.items()):
        of_clients = () if endpoint.public or status == 401 else _OF_CLIENTS
        responses[str(status)] = _problem_response(status, names, schemas, of_clients)
    return responses


def _problem_response(
    status: int, names: list[str], schemas: dict[type, dict[str, Any]], of_clients: tuple[str, ...]
) -> dict[str, Any]:
    alternatives = list({str(found): found for name in names if (found := schemas[_problem_type(name)])}.values())
    return {
        "description": "; ".join(PROBLEMS[name].title for name in names),
        "headers": {name: _HEADERS[name] for name in (*_HEADERS_OF_STATUS.get(status, ()), *of_clients)},
        "content": {
            _PROBLEM_JSON: {
                "schema": alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives},
                "examples": {name: {"value": _plain(_example(name))} for name in names},
            }
        },
    }


def _plain(example: object) -> Any:
    """As it is sent."""
    return msgspec.json.decode(msgspec.json.encode(example))


def _example(name: str) -> Problem:
    kind = PROBLEMS[name]
    return kind.body(
        type=f"/problems/{name}",
        title=kind.title,
        status=kind.status,
        detail=kind.title,
        retry=kind.retry,
        **kind.example,
    )
