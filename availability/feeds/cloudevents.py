"""A NATS message into single stock events: it is one, or a list of them, or CloudEvents 1.0 around either (DESIGN 10).

The NATS binding of CloudEvents has a structured mode (the body is the event) and a binary mode (its attributes are
``ce-`` headers, their values percent-encoded); it has no batches. Nothing that a sender can write raises here.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, Struct

from availability.feeds.decoding import (
    SEQUENCE_MAX,
    UNREADABLE,
    EventDefaults,
    Instant,
    Sequence53,
    Undecodable,
    clean,
    to_ms,
)
from ledger import Name, Reference

EVENTS_MAX: Final = 10_000
"""Events in one message."""

_PREFIX: Final = "ce-"
_STRUCTURED: Final = "application/cloudevents"

Digits = Annotated[str, Meta(pattern=r"^[0-9]{1,16}\Z")]
"""How the extension ``sequence`` is written: a text, filled with zeros so that texts sort as numbers do."""
Attribute = Annotated[str, Meta(min_length=1)]


class Part(Struct, frozen=True):
    """One event's bytes, and what the envelope says for the fields that it leaves out."""

    raw: bytes | msgspec.Raw
    defaults: EventDefaults | None


class _Envelope(Struct, frozen=True):
    """The attributes that we read. Others may be there: extensions are the sender's business."""

    specversion: str
    id: Reference
    source: Name
    type: Attribute
    time: Instant | None = None
    sequence: Digits | Sequence53 | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


class _Marked(Struct):
    specversion: msgspec.Raw


_lists: Final = msgspec.json.Decoder(list[msgspec.Raw])
_envelopes: Final = msgspec.json.Decoder(_Envelope)
_marked: Final = msgspec.json.Decoder(_Marked)


def unpack(body: bytes, headers: Mapping[str, str] | None) -> list[Part] | Undecodable:
    """The events of one message in order, or why it has none."""
    named = {name.lower(): value for name, value in headers.items()} if headers else {}
    content_type = named.get("content-type", "").strip().lower()
    try:
        if f"{_PREFIX}specversion" in named:
            return _binary(named, body)
        if content_type.startswith(f"{_STRUCTURED}-"):
            return Undecodable("unsupported", "CloudEvents have no batches on NATS")
        if content_type.startswith(_STRUCTURED) or _is_envelope(body):
            return _structured(body)
        return _split(body, None)
    except UNREADABLE as error:
        return Undecodable("invalid", clean(error))
    except _Refused as refusal:
        return refusal.undecodable


def percent_decode(value: str) -> str:
    """An attribute's value as the NATS binding reads it from a header; ``UnicodeDecodeError`` when it is no UTF-8."""
    return unquote_to_bytes(value).decode("utf-8")


class _Refused(Exception):
    """Carries an ``Undecodable`` out of the steps below."""

    def __init__(self, undecodable: Undecodable) -> None:
        super().__init__(undecodable.detail)
        self.undecodable = undecodable


def _is_envelope(body: bytes) -> bool:
    """Whether a body without a telling content type is a CloudEvent all the same; the quick look comes first."""
    if b'"specversion"' not in body or not body.lstrip().startswith(b"{"):
        return False
    try:
        _marked.decode(body)
    except UNREADABLE:
        return False
    return True


def _binary(named: Mapping[str, str], body: bytes) -> list[Part]:
    attributes = {
        name.removeprefix(_PREFIX): percent_decode(value) for name, value in named.items() if name.startswith(_PREFIX)
    }
    attributes.setdefault("datacontenttype", named.get("content-type", "application/json"))
    attributes.pop("data", None)
    attributes.pop("data_base64", None)
    return _data(msgspec.convert(attributes, _Envelope), body)


def _structured(body: bytes) -> list[Part]:
    envelope = _envelopes.decode(body)
    if envelope.data_base64 is None:
        return _data(envelope, envelope.data)
    try:
        return _data(envelope, b64decode(envelope.data_base64, validate=True))
    except (binascii.Error, ValueError) as error:
        detail = f"data_base64 is no base64: {clean(error)}"
        raise _Refused(Undecodable("invalid", detail, envelope.id, envelope.source)) from None


def _data(envelope: _Envelope, data: bytes | msgspec.Raw) -> list[Part]:
    """The events inside an envelope, each with what the envelope says for it."""
    flaw = _flaw(envelope, data)
    if flaw is not None:
        raise _Refused(flaw)
    defaults = EventDefaults(
        envelope.id,
        envelope.source,
        None if envelope.time is None else to_ms(envelope.time),
        None if envelope.sequence is None else int(envelope.sequence),
    )
    return _split(data, defaults)


def _flaw(envelope: _Envelope, data: bytes | msgspec.Raw) -> Undecodable | None:
    identity, source = envelope.id, envelope.source
    if envelope.specversion != "1.0":
        return Undecodable("unsupported", "only CloudEvents 1.0 are read", identity, source)
    if not _is_json(envelope.datacontenttype or "application/json"):
        return Undecodable("unsupported", "only JSON is read as data", identity, source)
    if len(bytes(data)) == 0:
        return Undecodable("invalid", "the CloudEvent has no data", identity, source)
    if envelope.sequence is not None and int(envelope.sequence) > SEQUENCE_MAX:
        return Undecodable("invalid", "Expected a whole number below 2**53 - at `$.sequence`", identity, source)
    return None


def _is_json(media_type: str) -> bool:
    essence = media_type.split(";", 1)[0].strip().lower()
    return essence.endswith(("/json", "+json"))


def _split(data: bytes | msgspec.Raw, defaults: EventDefaults | None) -> list[Part]:
    """A list into its events, anything else as the one event that it had better be."""
    if not bytes(memoryview(data)[:64]).lstrip().startswith(b"["):
        return [Part(data, defaults)]
    raws = _lists.decode(data)
    if len(raws) > EVENTS_MAX:
        raise _Refused(Undecodable("invalid", f"more than {EVENTS_MAX} events in one message"))
    if defaults is None:
        return [Part(raw, None) for raw in raws]
    return [Part(raw, msgspec.structs.replace(defaults, id=f"{defaults.id}:{index}")) for index, raw in enumerate(raws)]
