"""How a request is recognised when it comes again (P3): by field, in few bytes."""

import pytest

from availability.api import forms
from ledger import identity

FORMS = [forms.HoldForm, forms.ExtendForm, forms.CommitForm, forms.ReleaseForm, forms.FulfilmentForm, forms.MoveForm]


@pytest.mark.parametrize("form", [*FORMS, forms.CountForm])
def test_every_field_of_a_request_has_its_letter(form: type[forms.Form]) -> None:
    fields = dict.fromkeys(form.__struct_fields__, "something")
    told = identity.fingerprint("call", fields)
    assert len(told) == identity.PART_LENGTH * (1 + len(fields))
    for name in fields:
        assert identity.differing_field(told, identity.fingerprint("call", fields | {name: "another"})) == name
        left_out = {other: value for other, value in fields.items() if other != name}
        assert identity.differing_field(told, identity.fingerprint("call", left_out)) == name
        assert identity.fingerprint("call", left_out | {name: None}) == identity.fingerprint("call", left_out)


def test_another_call_is_told_before_any_field() -> None:
    told = identity.fingerprint("hold", {"lines": [1]})
    assert identity.differing_field(told, identity.fingerprint("commit", {"order_id": "1"})) == "call"


def test_a_field_without_a_letter_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="FIELDS"):
        identity.fingerprint("hold", {"colour": "red"})
