"""The catalog: the locations that stock is at, and what of it is never promised (DESIGN 9)."""

from typing import Literal

from msgspec import Struct

from availability.api import forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.api.problems import Fault, invalid, problem
from availability.api.reading import path_name
from ledger import Location, Locations, Name, PutLocation, PutSafetyStock, SafetyStock, UnknownLocation


class LocationJson(Struct, frozen=True):
    """A node that has stock; without an ``authority`` it believes every source."""

    id: str
    name: str | None
    type: Literal["warehouse", "store", "dropship"]
    authority: str | None
    lat: float | None
    lon: float | None
    priority: int
    enabled: bool


class LocationsJson(Struct, frozen=True):
    """Every location, by id."""

    locations: list[LocationJson]


_STORE = LocationJson("STORE-7", "Main Street", "store", "wms", 52.52, 13.405, 100, True)


@endpoint(
    "PUT",
    "/v1/locations/{id}",
    "catalog:write",
    summary="Create or replace a location. What is left out is set to its default.",
    body=forms.LocationForm,
    body_example={"name": "Main Street", "type": "store", "authority": "wms", "lat": 52.52, "lon": 13.405},
    success=Success("The location", _STORE),
)
async def put_location(edge: Edge, call: Call[forms.LocationForm]) -> Answer:
    """Create or replace one."""
    name = path_name(call.path, "id", Name)
    if isinstance(name, Fault):
        return invalid(name)
    stored = await edge.ledger.put_location(PutLocation(call.principal.client, call.form.location(name)))
    return ok(_shape(stored.location), "stored")


@endpoint(
    "GET",
    "/v1/locations",
    "atp:read",
    summary="Every location, by id.",
    success=Success("The locations", LocationsJson([_STORE])),
)
async def locations(edge: Edge, _call: Call[None]) -> Answer:
    """All of them."""
    found = await edge.ledger.locations(Locations())
    return ok(LocationsJson([_shape(location) for location in found.locations]))


class SafetyStockItemJson(Struct, frozen=True):
    """Units of a SKU at a location that are never promised."""

    sku: str
    location: str
    quantity: int


class SafetyStockJson(Struct, frozen=True):
    """The items as stored, in order."""

    items: list[SafetyStockItemJson]


@endpoint(
    "PUT",
    "/v1/safety-stock",
    "catalog:write",
    summary="Set how many units are never promised, each SKU and location by itself: of all items or, when a location "
    "is unknown, of none. The next decision knows it. What is put for a SKU that was never counted there waits for its "
    "first count. Doing it again changes nothing; 0 takes it away.",
    body=forms.SafetyStockForm,
    body_example={"items": [{"sku": "SHOE-42", "location": "STORE-7", "quantity": 2}]},
    success=Success("The items as stored", SafetyStockJson([SafetyStockItemJson("SHOE-42", "STORE-7", 2)])),
    problems=("unknown-location",),
)
async def put_safety_stock(edge: Edge, call: Call[forms.SafetyStockForm]) -> Answer:
    """Set all of it."""
    items = [SafetyStock(item.sku, item.location, item.quantity) for item in call.form.items]
    again = forms.twice([(item.sku, item.location) for item in items])
    if again is not None:
        return invalid(Fault(f"items[{again}]", "has the SKU and the location of an item before it"))
    outcome = await edge.ledger.put_safety_stock(PutSafetyStock(call.principal.client, items))
    if isinstance(outcome, UnknownLocation):
        detail = f"item {outcome.line} names a location that is not in the catalog; nothing was stored"
        return problem("unknown-location", detail, {"line": outcome.line, "location": outcome.location})
    return ok(
        SafetyStockJson([SafetyStockItemJson(item.sku, item.location, item.quantity) for item in outcome.items]),
        "stored",
    )


def _shape(location: Location) -> LocationJson:
    return LocationJson(
        location.id,
        location.name,
        location.type,
        location.authority,
        location.lat,
        location.lon,
        location.priority,
        location.enabled,
    )
