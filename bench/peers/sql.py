"""Owns the Postgres rivals: what most teams would write, each as fast as we know how, without keys or a journal.

Their table of holds has an expiry that nothing acts upon, and no index but its key: they do less than the ledger.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

HOT, SOLD_OUT = "HOT", "SOLD-OUT"
TTL_S: Final = 600

SCHEMA: Final = """
DROP TABLE IF EXISTS stock, hold, unit CASCADE;
CREATE TABLE stock(sku text PRIMARY KEY, available int NOT NULL CHECK (available >= 0)) WITH (fillfactor = 10);
DROP SEQUENCE IF EXISTS hold_id;
CREATE SEQUENCE hold_id CACHE 100;
CREATE TABLE hold(id bigint PRIMARY KEY DEFAULT nextval('hold_id'), sku text NOT NULL,
    quantity int NOT NULL, expires_at timestamptz NOT NULL) WITH (autovacuum_enabled = false);
CREATE TABLE unit(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sku text NOT NULL, hold uuid,
    expires_at timestamptz) WITH (fillfactor = 50);
CREATE INDEX unit_free ON unit(sku, id) WHERE hold IS NULL;

-- Takes what there is in the order of the arrays; the id of each hold, null for what was refused.
CREATE OR REPLACE FUNCTION hold_batch(skus text[], quantities int[], ttl interval) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE ids bigint[];
BEGIN
    PERFORM FROM stock WHERE sku = ANY(skus) ORDER BY sku FOR UPDATE;
    WITH asked AS (
        SELECT n, sku, quantity, sum(quantity) OVER (PARTITION BY sku ORDER BY n) AS total
        FROM unnest(skus, quantities) WITH ORDINALITY AS given(sku, quantity, n)
    ), decided AS MATERIALIZED (
        SELECT n, asked.sku, quantity, CASE WHEN total <= available THEN nextval('hold_id') END AS id
        FROM asked LEFT JOIN stock USING (sku)
    ), taken AS (
        UPDATE stock SET available = available - units
        FROM (SELECT sku, sum(quantity)::int AS units FROM decided WHERE id IS NOT NULL GROUP BY sku) AS wanted
        WHERE wanted.sku = stock.sku
    ), kept AS (
        INSERT INTO hold(id, sku, quantity, expires_at)
        SELECT id, sku, quantity, now() + ttl FROM decided WHERE id IS NOT NULL
    )
    SELECT array_agg(id ORDER BY n) INTO ids FROM decided;
    RETURN ids;
END $$;
"""

CONDITIONAL_UPDATE: Final = """
WITH taken AS (UPDATE stock SET available = available - $2 WHERE sku = $1 AND available >= $2 RETURNING sku)
INSERT INTO hold(sku, quantity, expires_at) SELECT sku, $2, now() + interval '10 minutes' FROM taken RETURNING id
"""
SKIP_LOCKED: Final = """
UPDATE unit SET hold = gen_random_uuid(), expires_at = now() + interval '10 minutes' WHERE id =
    (SELECT id FROM unit WHERE sku = $1 AND hold IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id
"""
BATCH: Final = f"SELECT hold_batch($1, $2, interval '{TTL_S} seconds')"

Asker = Callable[[int], Awaitable[int]]
"""Asks for so many holds of one unit of the hot SKU at once; how many were granted."""


async def filled(url: str, units: int, *, rows: int = 0) -> None:
    """No holds, and so many units of the hot SKU; of ``rows`` each has a row of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA)
        await connection.execute("INSERT INTO stock VALUES ($1, $2), ($3, 0)", HOT, units, SOLD_OUT)
        await connection.execute("INSERT INTO unit(sku) SELECT $1 FROM generate_series(1, $2)", HOT, rows)
        await connection.execute("VACUUM ANALYZE stock, hold, unit")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def held(url: str) -> tuple[int, int]:
    """Units held in all, and units that can still be held, of the way that was used."""
    connection = await asyncpg.connect(url)
    try:
        units = await connection.fetchval("SELECT count(*) FROM unit WHERE hold IS NOT NULL")
        if units:
            return units, await connection.fetchval("SELECT count(*) FROM unit WHERE hold IS NULL")
        taken = await connection.fetchval("SELECT coalesce(sum(quantity), 0)::int FROM hold")
        return taken, await connection.fetchval("SELECT available FROM stock WHERE sku = $1", HOT)
    finally:
        await connection.close()


async def conditional_update(connection: asyncpg.Connection) -> Asker:
    """A hold is one statement on the one row."""
    statement = await connection.prepare(CONDITIONAL_UPDATE)

    async def ask(_holds: int) -> int:
        return int(await statement.fetchval(HOT, 1) is not None)

    return ask


async def skip_locked(connection: asyncpg.Connection) -> Asker:
    """A hold takes a unit's row that nobody else is taking. At the end it may refuse wrongly, but never oversells."""
    statement = await connection.prepare(SKIP_LOCKED)

    async def ask(_holds: int) -> int:
        return int(await statement.fetchval(HOT) is not None)

    return ask


async def batched(connection: asyncpg.Connection) -> Asker:
    """Many holds are one call of a function."""
    statement = await connection.prepare(BATCH)

    async def ask(holds: int) -> int:
        ids: list[int | None] = await statement.fetchval([HOT] * holds, [1] * holds)
        return holds - ids.count(None)

    return ask


Way = Callable[[asyncpg.Connection], Awaitable[Asker]]
