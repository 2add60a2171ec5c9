"""What operators call to reconcile: what other sources say of a stock whose authority they are not."""

from msgspec import Struct

from availability.api import forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.shapes import time_text
from ledger import View, Views


class ViewJson(Struct, frozen=True):
    """The newest snapshot of a source, and its ``difference`` from the position's ``on_hand``.

    ``on_hand`` is of now, the ``quantity`` of ``as_of``: what moved in between is part of the difference. Both are null
    where no source that is believed ever told of the SKU.
    """

    location: str
    source: str
    event: str
    quantity: int
    as_of: str
    sequence: int | None
    on_hand: int | None
    difference: int | None


class ViewsJson(Struct, frozen=True):
    """By location, then by source."""

    sku: str
    views: list[ViewJson]


@endpoint(
    "GET",
    "/v1/views",
    "ops:read",
    summary="What sources other than a location's `authority` last said is on hand of a SKU, at one location or at "
    "all. Their snapshots are answered `quarantined` with the reason `not-authoritative`, change no number, and are "
    "kept here for reconciliation: of each source the newest, of at most eight sources a location.",
    query=forms.ViewsQuery,
    success=Success(
        "The views",
        ViewsJson("SHOE-42", [ViewJson("STORE-7", "erp", "NIGHTLY-7", 14, "2026-11-23T03:00:00.000Z", None, 12, 2)]),
    ),
)
async def views(edge: Edge, call: Call[forms.ViewsQuery]) -> Answer:
    """All of one SKU."""
    found = await edge.ledger.views(Views(call.form.sku, call.form.location))
    return ok(ViewsJson(call.form.sku, [_shape(view) for view in found.views]))


def _shape(view: View) -> ViewJson:
    return ViewJson(
        view.location,
        view.source,
        view.id,
        view.quantity,
        time_text(view.as_of_ms),
        view.sequence,
        view.on_hand,
        None if view.on_hand is None else view.quantity - view.on_hand,
    )
