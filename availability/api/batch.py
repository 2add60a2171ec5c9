"""Many holds in one call, each answered as if it had come alone (DESIGN 9)."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from availability.api import checkout, examples, forms
from availability.api.answer import Answer, ok
from availability.api.answering import failed, too_large
from availability.api.edge import Edge
from availability.api.endpoint import LARGE_BODY_BYTES_MAX, Call, Success, endpoint
from availability.api.openapi import any_answer_of
from availability.api.outcomes import is_replay
from availability.api.problems import PROBLEMS, Fault, invalid, problem
from availability.api.reading import read_body
from availability.api.tokens import Principal
from ledger import Hold, HoldOutcome, LedgerError

_one: Final = checkout.hold
_items: Final = msgspec.json.Decoder(forms.BatchItemForm)


class BatchResult(Struct, frozen=True, omit_defaults=True):
    """What the call for one hold would answer; ``replayed`` stands for its header Idempotency-Replayed."""

    status: int
    body: Annotated[Raw, Meta(description="a reservation, or a problem", extra_json_schema=any_answer_of(_one))]
    replayed: bool = False


class BatchResults(Struct, frozen=True):
    """A result for each reservation, in order."""

    results: list[BatchResult]


_SHORT: Final = problem("insufficient-stock", "1 of the lines cannot be held", PROBLEMS["insufficient-stock"].example)
_HELD: Final = ok(examples.RESERVATION, status=201)


@endpoint(
    "POST",
    "/v1/reservations/batch",
    "reservations:write",
    summary="Many holds at once, each with a key of its own. Each is answered, in order, as if it had come alone: what "
    "is refused or wrong stops no other, and a key that is there twice is the same operation again.",
    body=forms.BatchForm,
    body_example={
        "reservations": [
            {"key": "cart-17-hold", "lines": [{"sku": "SHOE-42", "quantity": 2, "location": "STORE-7"}]},
            {"key": "cart-18-hold", "lines": [{"sku": "SHOE-42", "quantity": 1}], "ttl_seconds": 60},
        ]
    },
    body_shown=forms.BatchShown,
    body_bytes_max=LARGE_BODY_BYTES_MAX,
    success=Success(
        "What became of each",
        BatchResults([BatchResult(answer.status, Raw(answer.body)) for answer in (_HELD, _SHORT)]),
    ),
)
async def hold_many(edge: Edge, call: Call[forms.BatchForm]) -> Answer:
    """Hold. All go to the ledger in one turn of the event loop; the second item of a key when the first is answered."""
    read = dict(enumerate(map(_read, call.form.reservations)))
    answers = {index: item for index, item in read.items() if isinstance(item, Answer)}
    waiting = {index: item for index, item in read.items() if not isinstance(item, Answer)}
    while waiting:
        turn: dict[str, int] = {}
        for index, item in waiting.items():
            turn.setdefault(item.key, index)
        told = await _alone(edge, call.principal, [waiting.pop(index) for index in turn.values()])
        answers.update(zip(turn.values(), told, strict=True))
    in_order = [answers[index] for index in read]
    results = [BatchResult(answer.status, Raw(answer.body), is_replay(answer)) for answer in in_order]
    words = {answer.outcome for answer in in_order}
    return ok(BatchResults(results), words.pop() if len(words) == 1 else "mixed")


async def _alone(edge: Edge, principal: Principal, items: list[forms.BatchItemForm]) -> list[Answer]:
    """What the call for one hold answers to each."""
    asked: list[Awaitable[Answer | HoldOutcome]] = []
    operations: list[Hold] = []
    for item in items:
        operation = checkout.hold_operation(item, principal.client, item.key)
        operations.append(operation)
        if item.by is None:
            asked.append(_ask(edge, operation))
        else:  # which may need more than one question
            asked.append(_one.handler(edge, Call(principal, {}, item, item.key)))
    told = await asyncio.gather(*asked, return_exceptions=True)
    return [_answer(operation, outcome) for operation, outcome in zip(operations, told, strict=True)]


def _ask(edge: Edge, operation: Hold) -> Awaitable[HoldOutcome]:
    """The ledger is asked at once: many holds need no task each."""
    try:
        return edge.ledger.hold(operation)
    except LedgerError as error:
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused


def _answer(operation: Hold, outcome: Answer | HoldOutcome | BaseException) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    if isinstance(outcome, BaseException):
        return failed(_one, outcome)
    return checkout.hold_answer(operation, outcome)


def _read(raw: Raw) -> forms.BatchItemForm | Answer:
    """An item, under the rules of a single call's body."""
    if len(raw) > _one.body_bytes_max:
        return too_large(_one.body_bytes_max)
    item = read_body(_items, bytes(raw))
    return invalid(item) if isinstance(item, Fault) else item
