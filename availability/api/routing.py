"""From a request's path to the endpoint and the variable parts.

It works on the path as it was sent: locations and keys may hold ``/`` and ``%``, so decoding comes after splitting.
"""

from collections.abc import Iterable

from msgspec import Struct

from availability.api.answer import Answer
from availability.api.endpoint import Endpoint
from availability.api.problems import Fault, invalid, problem
from availability.api.reading import unescape


class Match(Struct, frozen=True):
    """An endpoint and the variable parts of the path, decoded."""

    endpoint: Endpoint
    path: dict[str, str]


class _Place(Struct):
    """A path with what can be done there; ``names`` has the name of each variable segment, None at the fixed ones."""

    segments: tuple[bytes, ...]
    names: tuple[str | None, ...]
    methods: dict[str, Endpoint]

    def fits(self, segments: list[bytes]) -> bool:
        """Whether each fixed segment is there."""
        return all(
            name is not None or own == given
            for own, name, given in zip(self.segments, self.names, segments, strict=True)
        )


class Routes:
    """All endpoints by their paths."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._fixed: dict[bytes, dict[str, Endpoint]] = {}
        self._matches: dict[tuple[str, bytes], Match] = {}
        self._variable: dict[int, list[_Place]] = {}
        for endpoint in endpoints:
            methods = self._methods(endpoint.path)
            assert endpoint.method not in methods, f"{endpoint.name} is declared twice"
            methods[endpoint.method] = endpoint
            if "{" not in endpoint.path:
                self._matches[endpoint.method, endpoint.path.encode()] = Match(endpoint, {})

    def _methods(self, path: str) -> dict[str, Endpoint]:
        if "{" not in path:
            return self._fixed.setdefault(path.encode(), {})
        segments = tuple(segment.encode() for segment in path.split("/"))
        places = self._variable.setdefault(len(segments), [])
        for place in places:
            if place.segments == segments:
                return place.methods
        names = tuple(segment[1:-1].decode() if segment.startswith(b"{") else None for segment in segments)
        places.append(_Place(segments, names, {}))
        return places[-1].methods

    def find(self, method: str, raw_path: bytes) -> Match | Answer:
        """The endpoint, or 404, 405 or 400."""
        found = self._matches.get((method, raw_path))
        if found is not None:
            return found
        methods = self._fixed.get(raw_path)
        if methods is not None:
            return _by_method(methods, method, {})
        segments = raw_path.split(b"/")
        for place in self._variable.get(len(segments), ()):
            if place.fits(segments):
                path: dict[str, str] = {}
                for name, segment in zip(place.names, segments, strict=True):
                    if name is not None:
                        value = unescape(segment)
                        if value is None:
                            return invalid(Fault(name, "must be percent-encoded UTF-8"))
                        path[name] = value
                return _by_method(place.methods, method, path)
        return problem("not-found", "there is nothing at this path")


def _by_method(methods: dict[str, Endpoint], method: str, path: dict[str, str]) -> Match | Answer:
    endpoint = methods.get(method)
    if endpoint is not None:
        return Match(endpoint, path)
    allowed = ", ".join(sorted(methods))
    return problem("method-not-allowed", f"allowed here: {allowed}", headers=((b"allow", allowed.encode()),))
