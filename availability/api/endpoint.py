"""One declaration an endpoint: who may call it, what it takes, and what it answers.

An endpoint is a function ``async (edge, call) -> Answer`` under ``@endpoint(...)``. All that it does not decide itself
(who may call it, how long a body may be, what a field may hold, how failures are told) stands in the declaration, from
which the OpenAPI document is made as well.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from availability.api.answer import Answer
from availability.api.edge import Edge
from availability.api.reading import QueryReader
from availability.api.tokens import Principal

BODY_BYTES_MAX: Final = 65_536
LARGE_BODY_BYTES_MAX: Final = 2_097_152

PUBLIC: Final = "public"
"""The scope of what needs no token. There is no default: whoever declares an endpoint says who may call it."""
SCOPES: Final = (
    "atp:read",
    "reservations:read",
    "reservations:write",
    "stock:write",
    "catalog:write",
    "ops:read",
    "ops:write",
)

FormT = TypeVar("FormT")


class Call(Struct, Generic[FormT], frozen=True):
    """One request, as far as a handler needs to know it."""

    principal: Principal
    path: dict[str, str]
    """The variable parts of the path, by their names in it."""
    form: FormT
    key: str = ""
    """The Idempotency-Key, where the endpoint has one."""


Handler = Callable[[Edge, Call[FormT]], Awaitable[Answer]]


class Success(Struct, frozen=True):
    """An answer that is not a problem, for the document: an example of it has the type that is documented."""

    description: str
    example: object
    status: int = 200
    headers: tuple[str, ...] = ()
    content_type: str = "application/json"


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint as declared. ``scopes``: any one of them is enough; ``problems``: those of its own.

    ``body_shown`` is what the document says of the body, where that is more than what ``body`` checks at once.
    """

    method: str
    path: str
    name: str
    """How metrics and logs call it."""
    scopes: tuple[str, ...]
    public: bool
    """Whether it needs no token."""
    handler: Handler[Any]
    summary: str
    success: Success
    problems: tuple[str, ...] = ()
    body: type[Struct] | None = None
    body_example: dict[str, Any] | None = None
    body_shown: type[Struct] | None = None
    body_bytes_max: int = BODY_BYTES_MAX
    body_optional: bool = False
    query: type[Struct] | None = None
    keyed: bool = False
    shared: bool = False
    """Whether the answer is the same for all who ask the same, so that one may be told what another has asked."""
    decoder: msgspec.json.Decoder[Any] | None = None
    query_reader: QueryReader | None = None

    @property
    def only_looks(self) -> bool:
        """Whether it changes nothing, so that there is nothing to be unknown about."""
        return self.method == "GET" or self.scopes == ("atp:read",)


def endpoint(
    method: str,
    path: str,
    *scopes: str,
    summary: str,
    success: Success,
    problems: tuple[str, ...] = (),
    body: type[Struct] | None = None,
    body_example: dict[str, Any] | None = None,
    body_shown: type[Struct] | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    body_optional: bool = False,
    query: type[Struct] | None = None,
    keyed: bool = False,
    shared: bool = False,
) -> Callable[[Handler[Any]], Endpoint]:
    """Declare the decorated handler to be an endpoint."""
    assert scopes, f"{method} {path} does not say who may call it"
    assert all(scope in (*SCOPES, PUBLIC) for scope in scopes), scopes

    def declare(handler: Handler[Any]) -> Endpoint:
        return Endpoint(
            method=method,
            path=path,
            name=f"{method} {path}",
            scopes=scopes,
            public=scopes == (PUBLIC,),
            handler=handler,
            summary=summary,
            success=success,
            problems=problems,
            body=body,
            body_example=body_example,
            body_shown=body_shown or body,
            body_bytes_max=body_bytes_max,
            body_optional=body_optional,
            query=query,
            keyed=keyed,
            shared=shared,
            decoder=None if body is None else msgspec.json.Decoder(body),
            query_reader=None if query is None else QueryReader.of(query),
        )

    return declare
