"""From bytes to a form or to what is wrong with them: bodies, query parameters, path segments, idempotency keys."""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import compress
from operator import attrgetter, ne
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from availability.api.problems import Fault

Form = TypeVar("Form")

_RULE_LENGTH_MAX: Final = 300
_AGAIN_BYTES_MAX: Final = 256
"""A query up to this length is remembered."""
_NAMED_FIELD: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`\Z", re.DOTALL)
_WHOLE_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
_RESERVATION_ID: Final = re.compile(r"[a-z2-7]{24}\Z")
_VISIBLE_ASCII: Final = re.compile(rb"[!-~]{1,255}\Z")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def read_body(decoder: msgspec.json.Decoder[Form], body: bytes) -> Form | Fault:
    """The form that a JSON body is."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return fault_of(error)
    except UnicodeDecodeError:
        return Fault("body", "must be UTF-8")
    except RecursionError:
        return Fault("body", "is nested too deeply")
    except msgspec.DecodeError as error:
        return Fault("body", f"must be JSON: {error}"[:_RULE_LENGTH_MAX])


def fault_of(error: msgspec.ValidationError, root: str = "body") -> Fault:
    """Where the form is wrong, as a path like ``lines[0].quantity``, and the rule; both bounded."""
    message = str(error)
    rule, at, path = message.rpartition(" - at `")
    if not at:
        rule, path = message, ""
    field = path.removesuffix("`").removeprefix("$").removeprefix(".")
    if named := _NAMED_FIELD.match(rule):
        field = f"{field}.{named[1]}" if field else named[1]
    return Fault((field or root)[:_RULE_LENGTH_MAX], rule[:_RULE_LENGTH_MAX])


class QueryReader(Struct, frozen=True, cache_hash=True):
    """Reads a query string into ``form``: the rules of a body, and whole numbers and lists written the way of URLs."""

    form: type[Struct]
    lists: frozenset[str]
    numbers: frozenset[str]

    @classmethod
    def of(cls, form: type[Struct]) -> "QueryReader":
        """The reader for a form whose fields are texts, days, whole numbers and lists of texts."""
        fields = msgspec.structs.fields(form)
        shown = {field.encode_name: msgspec.inspect.type_info(field.type) for field in fields}
        lists = frozenset(name for name, kind in shown.items() if isinstance(kind, msgspec.inspect.ListType))
        numbers = frozenset(name for name, kind in shown.items() if isinstance(kind, msgspec.inspect.IntType))
        return cls(form, lists, numbers)

    def read(self, query: bytes) -> Any:
        """The form that a query string is, or its fault."""
        return _read_again(self, query) if len(query) <= _AGAIN_BYTES_MAX else self.read_anew(query)

    def read_anew(self, query: bytes) -> Any:
        """The same, never remembered."""
        given: dict[str, object] = {}
        for pair in query.replace(b"+", b" ").split(b"&") if query else ():
            name_bytes, _, value_bytes = pair.partition(b"=")
            name, value = unescape(name_bytes), unescape(value_bytes)
            if name is None or value is None:
                return Fault("query", "must be percent-encoded UTF-8")
            if not name:
                return Fault("query", "has a parameter without a name")
            if name in self.lists:
                values = given.setdefault(name, [])
                assert isinstance(values, list)
                values.append(value)
            elif name in given:
                return Fault(name[:_RULE_LENGTH_MAX], "is given more than once")
            else:
                given[name] = int(value) if name in self.numbers and _WHOLE_NUMBER.match(value) else value
        try:
            return msgspec.convert(given, self.form)
        except msgspec.ValidationError as error:
            return fault_of(error, "query")


# Many ask the same. Of what is remembered, nothing can be changed by whoever gets it.
@lru_cache(4_096)
def _read_again(reader: QueryReader, query: bytes) -> Any:
    return reader.read_anew(query)


def unescape(segment: bytes) -> str | None:
    """A percent-encoded part of a URL as text; None when it is not well formed."""
    try:
        if b"%" not in segment:
            return segment.decode("utf-8")
        if _BAD_ESCAPE.search(segment):
            return None
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        return None


def idempotency_key(header: bytes) -> str | None:
    """The key in the header's value, without the quotes that it may have; None when it is not one."""
    value = header[1:-1] if len(header) >= 2 and header[:1] == header[-1:] == b'"' else header
    return value.decode("ascii") if _VISIBLE_ASCII.match(value) else None


def is_reservation_id(text: str) -> bool:
    """Whether it has the form of one; anything else was never given out."""
    return _RESERVATION_ID.match(text) is not None


def given_fields(form: Struct, kind: type[Struct] | None = None) -> dict[str, object]:
    """The fields of a form that differ from their defaults: what its fingerprint is taken of.

    ``kind`` is one that the form's own is made from, where only its fields count.
    """
    names, values_of, defaults = _fields(kind or type(form))
    values = values_of(form)
    return dict(compress(zip(names, values, strict=True), map(ne, values, defaults)))


@cache
def _fields(form: type[Struct]) -> tuple[list[str], Callable[[Struct], tuple[object, ...]], list[object]]:
    """The names of a form's fields, how to get their values, and their defaults."""
    fields = msgspec.structs.fields(form)
    names = [field.name for field in fields]
    values_of = (lambda form: (getattr(form, names[0]),)) if len(names) == 1 else attrgetter(*names)
    return names, values_of, [field.default for field in fields]


def path_name(path: dict[str, str], field: str, form: Any) -> str | Fault:
    """The part ``field`` of a path, if it is what ``form`` allows."""
    try:
        name: str = msgspec.convert(path[field], form)
    except msgspec.ValidationError as error:
        return Fault(field, str(error)[:_RULE_LENGTH_MAX])
    return name
