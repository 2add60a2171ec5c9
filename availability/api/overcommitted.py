"""What operators call about overcommitted positions: which there are, and whose reservations they touch."""

import logging

from msgspec import Struct

from availability.api import forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.api.problems import Fault, invalid
from availability.api.searching import AgeJson
from availability.shapes import ClaimJson, claims_json, time_text
from ledger import JOURNAL_FAILED, BadCursor, Unavailable

log = logging.getLogger(__name__)


class OvercommittedJson(Struct, frozen=True):
    """A position that has ``overcommitted`` units less than are claimed, and the claims, newest first, up to 100."""

    sku: str
    location: str
    overcommitted: int
    since: str
    reservations: list[ClaimJson]
    reservations_total: int


class OvercommittedPageJson(Struct, frozen=True):
    """A page of them, the latest first; ``next`` is the ``after`` of the page behind it, null on the last."""

    positions: list[OvercommittedJson]
    next: str | None
    journal: AgeJson


_CLAIM = ClaimJson("abcdefghijklmnopqrstuvwx", "web", "ORDER-1001", "committed", 1, 0, 2, 0, "2026-11-23T10:00:00.000Z")


@endpoint(
    "GET",
    "/v1/overcommitted",
    "ops:read",
    summary="Positions whose claims exceed what is there, because a feed or a count lowered it, and the reservations "
    "of every client that claim units there. One leaves the list by itself when stock comes back or claims end. It is "
    "read from the journal, which is a little behind the ledger: `journal` tells until when all is in the answer.",
    query=forms.OvercommittedQuery,
    success=Success(
        "A page of them",
        OvercommittedPageJson(
            [OvercommittedJson("SHOE-42", "STORE-7", 1, "2026-11-23T10:05:00.000Z", [_CLAIM], 1)],
            "WzE3OTU0MjkyMDAwMDAsIlNIT0UtNDIiLCJTVE9SRS03Il0",
            AgeJson(240, "2026-11-23T10:20:00.000Z"),
        ),
    ),
)
async def overcommitted(edge: Edge, call: Call[forms.OvercommittedQuery]) -> Answer:
    """List them."""
    form = call.form
    try:
        page = await edge.reservations.overcommitted(
            sku=form.sku, location=form.location, limit=form.limit, after=form.after
        )
    except BadCursor:
        return invalid(Fault("after", "must be the `next` of a page"))
    except JOURNAL_FAILED as error:
        log.warning("the list of overcommitted positions found no answer: %s", type(error).__name__)
        raise Unavailable("the journal's database gives no answer now") from error
    found = [
        OvercommittedJson(
            position.sku,
            position.location,
            position.quantity,
            time_text(position.since_ms),
            claims_json(position.claims),
            position.claims.reservations,
        )
        for position in page.positions
    ]
    as_of = None if page.as_of_ms is None else time_text(page.as_of_ms)
    return ok(OvercommittedPageJson(found, page.next, AgeJson(page.lag_ms, as_of)))
