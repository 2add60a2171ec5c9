"""The examples of the OpenAPI document that more than one call shows, made of the very types that are answered."""

from availability.api.promising import AtpItem, ScheduleJson
from availability.shapes import LineJson, LocationEntryJson, ReceiptJson, ReservationJson


def _reservation(status: str, order_id: str | None, **units: int) -> ReservationJson:
    states = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
    counts = {state: units.get(state, 0) for state in states}
    return ReservationJson(
        id="abcdefghijklmnopqrstuvwx",
        status=status,
        expires_at="2026-11-23T10:10:00.000Z",
        order_id=order_id,
        channel="web",
        customer="CUSTOMER-9",
        lines=[LineJson(1, "SHOE-42", 2, "STORE-7", "2026-11-23", 2, **counts)],
        receipt=ReceiptJson(0, 1, 4711),
    )


RESERVATION = _reservation("held", None, held=2)
COMMITTED = _reservation("committed", "ORDER-1001", committed=2)
RELEASED = _reservation("held", None, held=1, released=1)
PICKED = _reservation("committed", "ORDER-1001", committed=1, picked=1)
SHIPPED = _reservation("shipped", "ORDER-1001", shipped=2)
CANCELLED = _reservation("committed", "ORDER-1001", committed=1, cancelled=1)
RETURNED = _reservation("shipped", "ORDER-1001", shipped=1, returned=1)

ATP_ITEM = AtpItem(
    sku="SHOE-42",
    channel=None,
    available=9,
    status="in_stock",
    quantity=2,
    promisable=True,
    promise_date="2026-11-23",
    next_expiry=None,
    as_of="2026-11-23T06:00:00.000Z",
    age_ms=14_400_000,
    stale=False,
    locations=[LocationEntryJson("STORE-7", 9, 12, 2, 1, 0, 0, 0, 0, 0, "2026-11-23T06:00:00.000Z", 14_400_000, False)],
    schedule=[ScheduleJson("2026-11-23", 9)],
)

STOCK_EVENT = {
    "id": "E-1",
    "source": "wms",
    "kind": "snapshot",
    "sku": "SHOE-42",
    "location": "STORE-7",
    "quantity": 12,
    "occurred_at": "2026-11-23T06:00:00.000Z",
}
