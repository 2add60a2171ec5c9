"""Owns what is asked at a quiet point: what became of the unknowns, the same keys again, what the ledger shows."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from bench.http_client import HttpAnswer, HttpClient
from chaos.announced import told_again
from chaos.checks import Books, Finding, Window, judge
from chaos.evidence import Evidence
from chaos.history import Operation
from chaos.shopper import Shop

SAMPLE: Final = 60
CONNECTIONS: Final = 8


async def check(shop: Shop, evidence: Evidence) -> list[Finding]:
    """Everything that can be said of the window that has just come to rest."""
    told = None if evidence.unrested else evidence.told
    window = Window(
        *(shop.history, evidence.effects, evidence.reservations(), evidence.positions(), told, len(evidence.shards))
    )
    findings = [Finding("not at rest", why) for why in [*shop.unended, *evidence.unrested]]
    findings += judge(window)
    shop.history.sometimes["announced events"] += len(evidence.told)
    shop.history.sometimes["announced again"] += told_again(evidence.told)
    before = evidence.ledger_ends()
    findings += [finding async for finding in _asked_again(shop, window)]
    if evidence.ledger_ends() != before:
        findings.append(Finding("doubled", f"replays changed the ledger: {before}, then {evidence.ledger_ends()}"))
    findings += [Finding("journal", flaw) for flaw in await evidence.journal_flaws()]
    findings += [Finding("rebuilt otherwise", flaw[:700]) for flaw in evidence.differing()]
    return findings


async def _asked_again(shop: Shop, window: Window) -> AsyncIterator[Finding]:
    clients = {client: HttpClient(shop.url, token, CONNECTIONS) for client, token in shop.tokens.items()}
    done = window.done
    try:
        for operation in _unknown(window.writes):
            answer = await _get(clients[operation.client], f"/v1/operations/{quote(operation.key)}")
            shop.history.sometimes["unknown to the end, and " + ("done" if answer.status == 200 else "not done")] += 1
            if answer.status != (200 if operation.id in done else 404):
                yield Finding("unsettled", f"{operation.key}: {answer.status} {answer.body[:200]!r}", operation.sent_s)
        async for finding in _replayed(shop, window, clients):
            yield finding
        async for finding in _shown(window, clients[shop.history.operations[0].client]):
            yield finding
    finally:
        for client in clients.values():
            await client.__aexit__(None, None, None)


async def _replayed(shop: Shop, window: Window, clients: Mapping[str, HttpClient]) -> AsyncIterator[Finding]:
    """Some of what was acknowledged is asked again, with its key."""
    acknowledged = [operation for operation in window.writes if operation.acknowledged]
    for operation in shop.random.sample(acknowledged, min(SAMPLE, len(acknowledged))):
        body = msgspec.json.encode(operation.form)
        again = await clients[operation.client].request("POST", operation.path, body, operation.key)
        first = operation.acknowledged
        assert first is not None
        if again.status != first.status or "idempotency-replayed" not in again.headers:
            why = f"{operation.key} was answered {first.status}, and again {again.status}"
            yield Finding("other verdict", why, operation.sent_s)


async def _shown(window: Window, client: HttpClient) -> AsyncIterator[Finding]:
    """Each position as an ATP answer has it now, beside the sum of its movements."""
    books = Books(window.effects)
    for sku, location in {line.place for operation in window.writes for line in operation.lines}:
        path = f"/v1/atp?sku={quote(sku)}&location={quote(location)}"
        entry = msgspec.json.decode((await _get(client, path)).body)["locations"][0]
        on_hand, claims = books.on_hand[sku, location], books.claims[sku, location]
        told = entry["on_hand"], entry["held"] + entry["committed"] + entry["picked"]
        if told != (on_hand, claims):
            yield Finding("rebuilt otherwise", f"{sku} shows {told}, its movements say {on_hand, claims}")


def _unknown(operations: Iterable[Operation]) -> list[Operation]:
    """Those of which nobody was told that they were done, and which may be."""
    return [operation for operation in operations if operation.may_be_done and operation.acknowledged is None]


async def _get(client: HttpClient, path: str) -> HttpAnswer:
    return await client.request("GET", path)
