"""Asks the journal's database whether what it acknowledges is durable, as the journal's role and database see it."""

import asyncio

import asyncpg

from ledger.findings import CheckLimits, Finding, all_well, clock_finding, clock_ms, disk_findings, no_answer, unsafe
from ledger.journal.postgres import FAILED, connect

TIMEOUT_S = 3.0
SUBJECT = "Postgres"
SETTINGS = {
    "fsync": ("on", "a commit must have reached the disk: set it in postgresql.conf, and reload"),
    "full_page_writes": ("on", "a page torn by a power cut could not be mended: set it in postgresql.conf, and reload"),
    "data_checksums": ("on", "a flipped bit would be believed: stop the server, then run pg_checksums --enable"),
    "data_sync_retry": ("off", "a failed fsync must not be tried again: set it in postgresql.conf, and start anew"),
}
COMMIT = "synchronous_commit"
LOST_COMMITS = "a commit is acknowledged before it has reached the disk"

_SESSION = """
select current_user as role, (select rolsuper from pg_roles where rolname = current_user) as superuser,
    (extract(epoch from clock_timestamp()) * 1000)::bigint as clock_ms, current_setting('synchronous_commit') as commit,
    pg_is_in_recovery() as replica
"""
_SETTINGS = "select name, setting from pg_settings where name = any($1)"
_WRITERS = """
select rolname from pg_db_role_setting join pg_roles on pg_roles.oid = setrole
where setdatabase in (0, (select oid from pg_database where datname = current_database()))
    and 'synchronous_commit=off' = any(setconfig) and rolname <> current_user
    and has_table_privilege(pg_roles.oid, to_regclass('availability.entry'), 'insert')
order by rolname
"""
"""Other roles that may write the journal, and whose commits do not wait for the disk."""


async def check_postgres(postgres_url: str, limits: CheckLimits) -> list[Finding]:
    """Takes ``TIMEOUT_S`` at most, on a new session, which has the settings of now. Never raises."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connection = await connect(postgres_url)
            try:
                asked_ms = clock_ms()
                [session] = await connection.fetch(_SESSION)
                ours_ms = (asked_ms + clock_ms()) // 2
                rows = await connection.fetch(_SETTINGS, [*SETTINGS, "data_directory"])
                writers = [row["rolname"] for row in await connection.fetch(_WRITERS)]
                await connection.close()
            finally:
                connection.terminate()
    except FAILED as error:
        return [no_answer(SUBJECT, error)]
    found = {row["name"]: row["setting"] for row in rows}
    findings = [
        unsafe(f"{SUBJECT}'s {name}", f"is {found.get(name, 'not readable')}, not {wanted}: {why}")
        for name, (wanted, why) in SETTINGS.items()
        if found.get(name) != wanted
    ]
    findings += _commit_findings(session, writers)
    if session["replica"]:
        findings.append(unsafe(SUBJECT, "is a replica, which takes no journal: name the primary in postgres_url"))
    if session["superuser"]:
        text = f"is `{session['role']}`, a superuser: give the service a role that has its own tables alone"
        findings.append(Finding("warning", f"{SUBJECT}'s role", text))
    findings.append(clock_finding(SUBJECT, session["clock_ms"], ours_ms, limits))
    findings += disk_findings(SUBJECT, postgres_url, found.get("data_directory"), limits)
    return all_well(findings, SUBJECT, "keeps what it acknowledges")


def _commit_findings(session: asyncpg.Record, writers: list[str]) -> list[Finding]:
    roles = [session["role"]] if session["commit"] == "off" else []
    return [
        unsafe(
            f"{SUBJECT}'s {COMMIT}",
            f"is off for the role {role}: {LOST_COMMITS}; set it on there (ALTER ROLE … RESET {COMMIT}, also IN"
            " DATABASE), for the database and in postgresql.conf",
        )
        for role in [*roles, *writers]
    ]
