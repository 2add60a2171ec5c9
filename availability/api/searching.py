"""What customer service and back offices call: a client's reservations by order, customer, SKU, location and status."""

import logging

from msgspec import Struct

from availability.api import examples, forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.api.problems import Fault, invalid
from availability.shapes import ReservationJson, reservation_json, time_text
from ledger import JOURNAL_FAILED, BadCursor, Filters, Unavailable

log = logging.getLogger(__name__)


class AgeJson(Struct, frozen=True):
    """Everything that was done until ``as_of``, ``lag_ms`` ago, is in the answer; null when that is not known."""

    lag_ms: int | None
    as_of: str | None


class ReservationsJson(Struct, frozen=True):
    """A page of reservations, newest first; ``next`` is the ``after`` of the page behind it, null on the last."""

    reservations: list[ReservationJson]
    next: str | None
    journal: AgeJson


@endpoint(
    "GET",
    "/v1/reservations",
    "reservations:read",
    "reservations:write",
    summary="This client's reservations, newest first. Those that fit every filter that is given; `sku` and `location` "
    "together mean one line with both. It is read from the journal, which is a little behind the ledger: `journal` "
    "tells until when everything is in the answer. So a hold whose time is over may still be shown as `held`, until "
    "its expiry has been journaled; `GET /v1/reservations/{id}` tells what is true now. For the next page ask again "
    "with `after` = `next` and the same filters: none is left out or shown twice, whatever is new meanwhile.",
    query=forms.SearchQuery,
    success=Success(
        "A page of them",
        ReservationsJson(
            [examples.RESERVATION],
            "MTc5NTQzNjEzNjAwMCBhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3g",
            AgeJson(240, "2026-11-23T10:00:00.000Z"),
        ),
    ),
)
async def reservations(edge: Edge, call: Call[forms.SearchQuery]) -> Answer:
    """Search."""
    form = call.form
    filters = Filters(
        order_id=form.order_id, customer=form.customer, sku=form.sku, location=form.location, status=form.status
    )
    try:
        page = await edge.reservations.search(call.principal.client, filters, limit=form.limit, after=form.after)
    except BadCursor:
        return invalid(Fault("after", "must be the `next` of a page"))
    except JOURNAL_FAILED as error:
        log.warning("a search found no answer: %s", type(error).__name__)
        raise Unavailable("the journal's database gives no answer now") from error
    found = [reservation_json(id_, shard, reservation) for id_, shard, reservation in page.reservations]
    as_of = None if page.as_of_ms is None else time_text(page.as_of_ms)
    return ok(ReservationsJson(found, page.next, AgeJson(page.lag_ms, as_of)))
