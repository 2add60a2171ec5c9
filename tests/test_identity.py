"""How a request is recognised when it comes again (P3): by field, in few bytes."""

from base64 import b32encode
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from zlib import crc32

import pytest

from availability.api import forms
from ledger import identity

FORMS = [forms.HoldForm, forms.ExtendForm, forms.CommitForm, forms.ReleaseForm, forms.FulfilmentForm, forms.MoveForm]


@pytest.mark.parametrize("form", [*FORMS, forms.CountForm])
def test_every_field_of_a_request_has_its_letter(form: type[forms.Form]) -> None:
    fields = dict.fromkeys(form.__struct_fields__, "something")
    told = identity.fingerprint("call", fields)
    assert len(told) <= 14 + 4 * (1 + len(fields))
    for name in fields:
        assert identity.differing_field(told, identity.fingerprint("call", fields | {name: "another"})) == name
        left_out = {other: value for other, value in fields.items() if other != name}
        assert identity.differing_field(told, identity.fingerprint("call", left_out)) == name
        assert identity.fingerprint("call", left_out | {name: None}) == identity.fingerprint("call", left_out)


def test_another_call_is_told_before_any_field() -> None:
    told = identity.fingerprint("hold", {"lines": [1]})
    assert identity.differing_field(told, identity.fingerprint("commit", {"order_id": "1"})) == "call"


def test_the_order_of_the_fields_does_not_matter() -> None:
    fields = {"lines": [1], "channel": "web", "customer": "c-1"}
    assert identity.fingerprint("hold", fields) == identity.fingerprint("hold", dict(reversed(fields.items())))


def test_requests_differ_also_where_the_digest_of_each_field_is_the_same() -> None:
    """The whole tells requests apart; the fields' short digests only name what differs."""
    first, second = _meeting(lambda number: crc32(b'"%d"' % number) & 0xFFFF)
    told = [identity.fingerprint("hold", {"channel": str(number)}) for number in (first, second)]

    assert told[0] != told[1]
    assert identity.differing_field(*told) == identity.WHOLE


def test_ids_are_base32_of_120_bits() -> None:
    for number in range(100):
        digest = blake2b(f"client\0{number}".encode(), digest_size=15).digest()
        assert identity.operation_id("client", str(number)) == b32encode(digest).decode().lower()


def _meeting(digest: Callable[[int], int]) -> tuple[int, int]:
    """Two numbers with the same digest."""
    seen: dict[int, int] = {}
    for number in count():
        first = seen.setdefault(digest(number), number)
        if first != number:
            return first, number
    raise AssertionError


def test_a_field_without_a_letter_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="FIELDS"):
        identity.fingerprint("hold", {"colour": "red"})
