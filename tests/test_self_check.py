"""Each unsafe setting, made on purpose, is told with its remedy and stops the service while it is so (P9)."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import asyncpg
import nats
import pytest
from api_world import Issuer
from ledgers import Clock, Shop
from msgspec.structs import replace
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from redis.asyncio import Redis
from servers import RunningServer, as_owner, as_user
from waiting import wait_until

from availability import access, doctor, event_publisher, journaler, self_check
from availability.app import Api
from availability.feeds import stream
from availability.feeds.checks import check_nats
from availability.journal_watch import watched_ledger
from availability.self_check import SelfCheck
from availability.settings import Settings
from ledger import (
    CheckLimits,
    Finding,
    Ledger,
    Unavailable,
    check_valkey,
    deploy_library,
    findings,
    migrate,
    server_check,
)
from ledger.library import library

pytestmark = pytest.mark.anyio

LIMITS = CheckLimits()


async def told(settings: Settings) -> list[Finding]:
    """What is wrong, as ``doctor`` says it."""
    return [finding for finding in await doctor.examine(settings) if finding.verdict != "ok"]


async def stops(settings: Settings, subject: str, *words: str) -> None:
    """The one thing that stops the service is this, told with these words, also by ``doctor``."""
    checked = SelfCheck(settings)
    await checked.look()
    assert checked.refusal is not None
    for word in (subject, *words):
        assert word in checked.refusal
    [unsafe] = [finding for finding in await self_check.examine(settings) if finding.stops]
    assert (unsafe.verdict, unsafe.subject) == ("unsafe", subject)
    assert doctor.exit_code(await doctor.examine(settings)) == 1


async def nothing_stops(settings: Settings) -> None:
    checked = SelfCheck(settings)
    await checked.look()
    assert (checked.refusal, checked.flaws) == (None, [])


# --- Valkey -----------------------------------------------------------------------------------------------------

VALKEY = {
    "appendonly": ("no", "set it to yes"),
    "appendfsync": ("everysec", "set it to always"),
    "no-appendfsync-on-rewrite": ("yes", "set it to no"),
    "maxmemory-policy": ("allkeys-lru", "set it to noeviction"),
}


@pytest.mark.parametrize("name", VALKEY)
async def test_a_valkey_that_may_lose_stock_stops_us_until_it_is_set_right(valkey_url: str, name: str) -> None:
    """P2."""
    settings = Settings(redis_url=valkey_url)
    value, remedy = VALKEY[name]
    async with Redis.from_url(as_owner(valkey_url), decode_responses=True) as client:
        right = str((await client.config_get(name))[name])
        await client.config_set(name, value)
        try:
            await stops(settings, f"Valkey's {name}", f"is {value}", remedy)
        finally:
            await client.config_set(name, right)
    await nothing_stops(settings)


async def test_what_only_costs_is_a_warning(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url)
    async with Redis.from_url(as_owner(valkey_url)) as client:
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("save", "3600 1")
        await client.config_set("maxmemory", used + 100_000)
        try:
            warnings = {finding.subject for finding in await told(settings) if finding.verdict == "warning"}
        finally:
            await client.config_set("maxmemory", 0)
            await client.config_set("save", "")
    assert warnings >= {"Valkey's save", "Valkey's memory"}


async def test_a_full_memory_is_told_as_what_it_does_now(valkey_url: str) -> None:
    """And stops nothing: what frees units must go on, and does within the room that is kept for it."""
    async with Redis.from_url(as_owner(valkey_url)) as client:
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", used - 1_000)
        try:
            (found,) = [
                each for each in await told(Settings(redis_url=valkey_url)) if each.subject == "Valkey's memory"
            ]
        finally:
            await client.config_set("maxmemory", 0)
    assert (found.verdict, "holds are refused now" in found.text) == ("warning", True)


INFO_FLAWS = {
    "aof_last_write_status": ("unsafe", "Valkey's append-only file"),
    "aof_last_bgrewrite_status": ("warning", "Valkey's append-only file"),
    "rdb_last_bgsave_status": ("warning", "Valkey's snapshot"),
}


@pytest.mark.parametrize("field", INFO_FLAWS)
async def test_a_disk_that_fails_is_told(valkey_url: str, field: str) -> None:
    """P2: from what the server itself says, where only this field is changed."""
    async with Redis.from_url(as_owner(valkey_url)) as client:
        said = {name: str(value) for name, value in (await client.info()).items()}
    assert server_check.persistence_findings("Valkey", said) == []
    assert said[field] == "ok"
    [flaw] = server_check.persistence_findings("Valkey", said | {field: "err"})
    assert (flaw.verdict, flaw.subject) == INFO_FLAWS[field]


@pytest.mark.parametrize(("name", "version"), [("valkey", "9.1.0"), ("valkey", "8.9.9"), ("redis", "7.0.15")])
def test_an_old_server_is_told(name: str, version: str) -> None:
    [flaw] = server_check.version_findings("Valkey", {f"{name}_version": version})
    assert flaw.stops
    assert version in flaw.text
    for new in ({"valkey_version": "9.1.1", "redis_version": "7.2.4"}, {"valkey_version": "10.0.0"}):
        assert server_check.version_findings("Valkey", new) == []


async def test_a_library_that_somebody_changed_stops_us(valkey_url: str) -> None:
    """P1: what is called is what was tested."""
    settings, ours = Settings(redis_url=valkey_url), library()
    ledger = await Ledger.open(valkey_url)
    await ledger.close()
    await nothing_stops(settings)
    async with Redis.from_url(as_owner(valkey_url)) as client:
        await client.function_load(ours.text.replace("redis.error_reply", "redis.status_reply"), replace=True)
        await stops(settings, "Valkey's function library", "run `availability migrate`")
    assert await deploy_library(as_user(valkey_url, access.OPERATOR)) == 1
    await nothing_stops(settings)


async def test_a_library_that_is_missing_is_told(valkey_url: str) -> None:
    """Where the ledger has begun: `doctor` would call well what answers every request with 503."""
    settings, subject = Settings(redis_url=valkey_url), "Valkey's function library"
    async with Redis.from_url(as_owner(valkey_url)) as client:
        await client.flushall()
        await client.function_flush("SYNC")
        assert subject not in {finding.subject for finding in await self_check.examine(settings)}
        await client.set("{s0}:anything", 1)
        (missing,) = [found for found in await self_check.examine(settings) if found.subject == subject]
        assert (missing.verdict, "run `availability migrate`" in missing.text) == ("unsafe", True)
        await client.flushall()


async def test_what_a_user_may_not_ask_is_unchecked_with_what_to_grant(valkey_url: str) -> None:
    """P9: what P2 stands on and cannot be seen stops us all the same. P10: a user that may do all is told."""
    settings = Settings(redis_url=as_owner(valkey_url).replace("availability:of-the-tests", "checker:secret"))
    async with Redis.from_url(as_owner(valkey_url)) as client:
        send: Any = client.execute_command

        async def user(*rules: str) -> dict[str, Finding]:
            await send("ACL", "SETUSER", "checker", "reset", "on", ">secret", *rules)
            found = await self_check.examine(settings)
            return {finding.subject: finding for finding in found if finding.verdict not in ("ok", "unsafe")}

        try:
            least = await user("+info", "+time")
            shards = "the ledger's number of shards"
            assert set(least) == {"Valkey's settings", "Valkey's function library", shards}
            assert "+get" in least[shards].text
            assert least["Valkey's settings"].stops
            assert "+config|get" in least["Valkey's settings"].text
            assert "+function|list" in least["Valkey's function library"].text
            enough = "+info", "+time", "+config|get", "+function|list", "+acl|whoami", "+get", "%R~{s0}:shard"
            assert await user(*enough) == {}
            assert set(await user("+@all", "~*")) == {"Valkey's user"}
        finally:
            await send("ACL", "DELUSER", "checker")
        await send("ACL", "SETUSER", "default", "reset", "on", "nopass", "+@all", "~*")
        try:
            found = await check_valkey(f"redis://{valkey_url.rpartition('@')[2]}", LIMITS)
        finally:
            await send("ACL", "SETUSER", "default", "reset", "off")
    [default] = [finding for finding in found if finding.subject == "Valkey's user"]
    assert "default" in default.text


# --- while a process runs ---------------------------------------------------------------------------------------


async def test_a_setting_that_turns_unsafe_stops_a_running_service_and_lets_it_go_on(
    valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2, P9: it refuses to change anything, tells why, goes on answering, and recovers by itself."""
    monkeypatch.setattr(self_check, "EVERY_S", 0.02)
    monkeypatch.setattr(self_check, "AGAIN_S", 0.02)
    await migrate(postgres_url)
    settings = Settings(redis_url=valkey_url, postgres_url=postgres_url)
    async with watched_ledger(settings) as ledger, Redis.from_url(as_owner(valkey_url)) as client:
        shop = Shop(ledger, Clock())

        async def is_ready() -> bool:
            return (await ledger.check()).ready

        async def is_told() -> list[str]:
            return [reason for reason in (await ledger.check()).reasons if "appendfsync is everysec" in reason]

        await wait_until(is_ready)
        await shop.open()
        await shop.stock("A", 5)
        await shop.hold(("A", 1))
        await client.config_set("appendfsync", "everysec")
        try:
            assert len(await wait_until(is_told)) == 1
            with pytest.raises(Unavailable, match="set it to always"):
                await shop.hold(("A", 1))
            assert (await shop.position("A")).held == 1
        finally:
            await client.config_set("appendfsync", "always")
        await wait_until(is_ready)
        await shop.hold(("A", 1))


async def test_nothing_is_promised_before_the_servers_were_looked_at(valkey_url: str, postgres_url: str) -> None:
    """P9: and a server that hangs is not waited for; what was found of it stays until it says otherwise."""
    settings = Settings(redis_url=valkey_url, postgres_url=postgres_url)
    checked = SelfCheck(settings)
    assert "not checked yet" in str(checked.refusal)
    half = SelfCheck(replace(settings, postgres_url="postgresql://127.0.0.1:1/x"))
    await half.look()
    assert half.refusal == "the settings of its servers were not checked yet (Postgres)"
    await checked.look()
    assert checked.refusal is None


async def test_what_was_found_of_a_server_that_hangs_stays(
    valkey_server: RunningServer, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9."""
    monkeypatch.setattr("ledger.valkey_checks.TIMEOUT_S", 0.3)
    checked = SelfCheck(Settings(redis_url=valkey_url))
    async with Redis.from_url(as_owner(valkey_url)) as client:
        await client.config_set("appendfsync", "everysec")
        try:
            await checked.look()
            before = checked.refusal
            valkey_server.process.send_signal(signal.SIGSTOP)
            await checked.look()
            valkey_server.process.send_signal(signal.SIGCONT)
            assert checked.refusal == before is not None
            assert checked.counted()["unchecked"] == 1
        finally:
            await client.config_set("appendfsync", "always")
    await checked.look()
    assert checked.refusal is None


# --- clocks and disks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["ledger.valkey_checks", "ledger.journal.checks"])
async def test_clocks_that_differ_stop_us(
    valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """P9."""
    settings = Settings(redis_url=valkey_url, postgres_url=postgres_url)
    await nothing_stops(settings)
    monkeypatch.setattr(f"{server}.clock_ms", lambda: findings.clock_ms() - 3_600_500)
    name = "Valkey" if "valkey" in server else "Postgres"
    await stops(settings, f"{name}'s clock", "is 3600", "ahead of this machine's", "NTP")


def test_a_difference_of_clocks_is_told_by_its_size() -> None:
    def verdict(difference_ms: int) -> str:
        return findings.clock_finding("X", 1_000_000 + difference_ms, 1_000_000, LIMITS).verdict

    assert [verdict(each) for each in (999, -999, 1_000, -5_000, 5_001, -5_001)] == [
        *("ok", "ok", "warning", "warning", "unsafe", "unsafe")
    ]


@pytest.mark.parametrize(
    ("free", "verdict"), [(201, "ok"), (200, "warning"), (51, "warning"), (50, "unsafe"), (0, "unsafe")]
)
async def test_a_disk_that_fills_up_is_told_before_it_is_full(
    valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    """P2: what it is past 80 % full is a warning, and past 95 % stops us."""
    disk = SimpleNamespace(f_blocks=1_000, f_bfree=free, f_bavail=free)
    monkeypatch.setattr(os, "statvfs", lambda _folder: disk)
    settings = Settings(redis_url=valkey_url, postgres_url=postgres_url)
    found = {finding.subject: finding for finding in await self_check.examine(settings)}
    for server in ("Valkey", "Postgres"):
        assert (found[f"{server}'s disk"].verdict, found[f"{server}'s disk"].stops) == (verdict, verdict == "unsafe")


# --- Postgres ---------------------------------------------------------------------------------------------------


async def test_a_role_whose_commits_do_not_wait_for_the_disk_stops_us(
    postgres_url: str, database: asyncpg.Connection
) -> None:
    """P7: as the journal's role sees it in its database, or as another role that writes the journal would."""
    settings = Settings(postgres_url=postgres_url)
    await migrate(postgres_url)
    name = await database.fetchval("select current_database()")
    await nothing_stops(settings)
    await database.execute(f"alter role availability in database {name} set synchronous_commit = off")
    await stops(settings, "Postgres's synchronous_commit", "role availability", "RESET")
    await database.execute(f"alter role availability in database {name} reset synchronous_commit")
    await nothing_stops(settings)
    await database.execute(f"alter database {name} set synchronous_commit = off")
    await stops(settings, "Postgres's synchronous_commit")
    await database.execute(f"alter database {name} reset synchronous_commit")
    writer = f"writer_of_{name}"
    await database.execute(f"create role {writer}; alter role {writer} set synchronous_commit = off")
    try:
        await nothing_stops(settings)
        await database.execute(f"grant insert on availability.entry to {writer}")
        await stops(settings, "Postgres's synchronous_commit", writer)
    finally:
        await database.execute(f"drop owned by {writer}; drop role {writer}")
    await nothing_stops(settings)


async def test_a_postgres_that_may_lose_commits_stops_us(postgres_server: RunningServer, postgres_url: str) -> None:
    """P7. Each is told; all are set at one start of the server, because it takes a second."""
    right = postgres_server.server
    unsafe = {"fsync": "off", "full_page_writes": "off", "data_sync_retry": "on"}
    arguments = [part for name, value in unsafe.items() for part in ("-c", f"{name}={value}")]
    postgres_server.stop()
    postgres_server.server = dataclasses.replace(right, argv=[*right.argv, *arguments])
    try:
        await postgres_server.restart()
        found = [finding for finding in await self_check.examine(Settings(postgres_url=postgres_url)) if finding.stops]
        postgres_server.stop()
    finally:
        postgres_server.server = right
        await postgres_server.restart()
    assert {finding.subject for finding in found} == {f"Postgres's {name}" for name in unsafe}
    assert all(finding.verdict == "unsafe" and ":" in finding.text for finding in found)
    await nothing_stops(Settings(postgres_url=postgres_url))


# --- NATS -------------------------------------------------------------------------------------------------------


def changed(wanted: StreamConfig, **fields: Any) -> StreamConfig:
    return dataclasses.replace(wanted, **fields)


STREAMS: dict[str, Callable[[], StreamConfig]] = {
    "discard is not new": lambda: changed(event_publisher.WANTED, discard=DiscardPolicy.OLD),
    "not kept in files": lambda: changed(event_publisher.WANTED, storage=StorageType.MEMORY),
    "knows a repeated event for less": lambda: changed(event_publisher.WANTED, duplicate_window=10),
    "without acknowledging": lambda: changed(event_publisher.WANTED, no_ack=True, allow_atomic=False),
    "does not take availability.>": lambda: changed(event_publisher.WANTED, subjects=["availability.stock.>"]),
    "drops unread events by age": lambda: changed(stream.WANTED, max_age=600),
    "retention is limits": lambda: changed(stream.WANTED, retention=RetentionPolicy.LIMITS),
}


@pytest.mark.parametrize("flaw", STREAMS)
async def test_a_stream_that_may_lose_events_makes_the_api_not_ready(nats_url: str, valkey_url: str, flaw: str) -> None:
    """The ledger goes on: an event that is lost can be sent again, a sale that was refused cannot."""
    client = await nats.connect(nats_url)
    jetstream, config = client.jetstream(), STREAMS[flaw]()
    right = stream.WANTED if config.name == stream.STREAM else event_publisher.WANTED
    await jetstream.add_stream(config)
    checked = SelfCheck(Settings(nats_url=nats_url, redis_url=valkey_url))
    await checked.look()
    assert checked.refusal is None
    [told] = checked.flaws
    assert flaw in told
    assert f"stream {config.name}" in told

    ledger = await Ledger.open(valkey_url)
    nobody: Any = None
    api = Api(checked_settings(nats_url), ledger, nobody, nobody, checked=checked)
    api.tokens.keys.load(Issuer().jwks)
    assert (api.reasons(), api.ready()) == ([told], False)

    assert right.name is not None
    await jetstream.delete_stream(right.name)

    async def is_made() -> bool:
        """A server that is still taking the old one's folder away refuses for a moment."""
        try:
            await jetstream.add_stream(right)
        except nats.js.errors.ServerError:
            return False
        return True

    await wait_until(is_made)
    await checked.look()
    assert (api.reasons(), api.ready()) == ([], True)
    await ledger.close()
    await client.close()


def checked_settings(nats_url: str) -> Settings:
    return Settings(nats_url=nats_url, token_issuer="us")


async def test_a_stream_that_is_not_there_is_named(nats_url: str) -> None:
    """It loses nothing, but to call it one that does not would hide that somebody removed it."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    [found] = await check_nats(nats_url)
    assert (found.verdict, "no stream STOCK or AVAILABILITY yet" in found.text) == ("ok", True)
    await jetstream.add_stream(stream.WANTED)
    [found] = await check_nats(nats_url)
    assert (found.verdict, "no stream AVAILABILITY yet" in found.text) == ("ok", True)
    await jetstream.delete_stream(stream.STREAM)
    await client.close()


async def test_a_consumer_that_gives_up_and_a_stream_that_fills_up_are_told(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    await jetstream.add_stream(changed(stream.WANTED, max_bytes=10_000))
    await jetstream.add_consumer(stream.STREAM, ConsumerConfig(durable_name=stream.DURABLE, max_deliver=5))
    checked = SelfCheck(Settings(nats_url=nats_url))
    await checked.look()
    assert [flaw for flaw in checked.flaws if "max_deliver" in flaw]
    await jetstream.publish("stock.wms.x", b"x" * 8_500)
    warnings = [finding for finding in await told(Settings(nats_url=nats_url)) if finding.verdict == "warning"]
    assert ["% full" in finding.text for finding in warnings] == [True]
    await client.close()


async def test_all_of_it_is_told_in_seconds_when_nothing_answers() -> None:
    """Starting is never held up by it."""
    nowhere = Settings(
        redis_url="redis://127.0.0.1:1", nats_url="nats://127.0.0.1:1", postgres_url="postgresql://127.0.0.1:1/x"
    )
    async with asyncio.timeout(5):
        found = await self_check.examine(nowhere)
    assert {(finding.verdict, finding.away) for finding in found} == {("unchecked", True)}


# --- the other things that processes look at --------------------------------------------------------------------


async def test_another_number_of_shards_than_the_ledger_has_is_told(valkey_url: str) -> None:
    """Also by the process ``journal``, which would leave the entries of some shards where they are."""
    two = Ledger(valkey_url, shards=2)
    await Shop(two, Clock()).open()
    await two.close()
    await stops(Settings(redis_url=valkey_url), "the ledger", "has 2 shards", "set shards = 2")
    await nothing_stops(Settings(redis_url=valkey_url, shards=2))


async def test_the_process_journal_tells_what_is_unsafe(
    valkey_url: str, nats_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    two = Ledger(valkey_url, shards=2)
    await Shop(two, Clock()).open()
    await two.close()
    settings = Settings(redis_url=valkey_url, nats_url=nats_url, postgres_url=postgres_url)
    journaling = asyncio.create_task(journaler.run(settings))

    async def is_said() -> bool:
        return any("the ledger has 2 shards" in record.getMessage() for record in caplog.records)

    await wait_until(is_said)
    os.kill(os.getpid(), signal.SIGTERM)
    await journaling
