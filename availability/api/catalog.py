"""The catalog: the locations that stock is at (DESIGN 9)."""

from typing import Literal

from msgspec import Struct

from availability.api import forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.api.problems import Fault, invalid
from availability.api.reading import path_name
from ledger import Location, Locations, Name, PutLocation


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
