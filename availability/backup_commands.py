"""Owns ``availability backup`` and ``restore``: everything of an ``up``, copied while it sells, and made anew from it.

What is copied in which order, and why: a copy is never of one moment.

1. the keys and passwords, which do not change;
2. ``STOCK``: what is taken from the stream after this is in the ledger's copy; what is in both is known again by it;
3. the ledger: all that was acknowledged before;
4. Postgres, so that the journal is at or ahead of the ledger. The other way round the ledger's stream could have
   dropped what the journal's copy lacks. A ledger that is behind is made anew from its journal;
5. ``AVAILABILITY``, so that it lacks no event which the journal's copy says was published.

Exit codes: 0 = done, 1 = refused, 2 = could not be done.
"""

import asyncio
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import msgspec

from availability.backup_folder import (
    FORMAT,
    MANIFEST,
    At,
    Manifest,
    Tell,
    Unfit,
    copy_tree,
    hashed,
    private,
    verified,
    whole,
    write,
)
from availability.backup_servers import (
    APPEND_ONLY,
    NotCopied,
    copy_append_only,
    copy_postgres,
    put_back_postgres,
)
from availability.event_publisher import STREAM as AVAILABILITY
from availability.feeds.stream import STREAM as STOCK
from availability.feeds.stream_copy import StreamNotCopied, copy_stream, put_back_stream
from availability.filling_commands import FAILED
from availability.instance import SERVERS, Instance, Refused, settings_of
from availability.instance_servers import servers_started
from availability.journal_watch import compared_ledger
from availability.processes import ledger_of
from availability.settings import Settings
from availability.terminal import shown_progress
from ledger import Journal, LedgerError, Place

NOT_DONE = (*FAILED, LedgerError, NotCopied, StreamNotCopied, OSError)

STEPS = {
    "ledger": "the ledger is copied",
    "postgres": "Postgres is copied",
    "hash": "every file is hashed",
    "verify": "every file is verified",
    "unpack": "everything is put in its place",
    "compare": "the ledger is compared with its journal",
}


async def backup(settings: Settings, data_dir: Path, target: Path) -> int:
    """Copy all of the ``up`` that runs in ``data_dir`` to the folder ``target``."""
    try:
        known = settings_of(data_dir, settings)
    except Refused as refused:
        click.echo(str(refused), err=True)
        return 2
    try:
        _insist_embedded(data_dir)
        with whole(target) as work, shown_progress(STEPS) as tell:
            manifest = await _copy(known, data_dir, work, tell)
    except (Refused, Unfit) as refused:
        click.echo(str(refused), err=True)
        return 1
    except NOT_DONE as error:
        click.echo(f"no backup was taken ({type(error).__name__}: {error}); try again", err=True)
        return 2
    size_bytes = sum(file.size_bytes for file in manifest.files.values())
    click.echo(f"{target} has all that was acknowledged before {manifest.taken_at}, in {size_bytes / 1e6:,.1f} MB")
    click.echo("it holds passwords and the key that signs tokens, unencrypted: keep it as safe as them", err=True)
    return 0


async def restore(settings: Settings, source: Path, data_dir: Path) -> int:
    """Make the new folder ``data_dir`` of the backup in ``source``."""
    own = msgspec.structs.replace(settings, redis_url="", postgres_url="", nats_url="")
    try:
        with shown_progress(STEPS) as tell, whole(data_dir) as work:
            manifest = await asyncio.to_thread(verified, source, tell, "verify")
            _insist_shards(manifest, settings)
            await asyncio.to_thread(_unpack, source, work, tell)
            reason = await _opened(own, source, work, manifest, tell)
    except (Refused, Unfit) as refused:
        click.echo(str(refused), err=True)
        return 1
    except NOT_DONE as error:
        click.echo(f"nothing was restored ({type(error).__name__}: {error}); try again", err=True)
        return 2
    click.echo(f"{data_dir} has what was acknowledged before {manifest.taken_at}")
    if reason is not None:
        click.echo(f"before it can be used: {reason}", err=True)
        click.echo(f"next: availability rebuild --data-dir {data_dir}")
    click.echo(f"{'then' if reason else 'next'}: availability up --data-dir {data_dir}")
    return 0


def _insist_embedded(data_dir: Path) -> None:
    if missing := [name for name in SERVERS if not (data_dir / name).is_dir()]:
        raise Refused(
            f"{', '.join(missing)} of this `up` is not in {data_dir}: back up such servers by their own tools, see"
            " Recovery in config/README.md"
        )


def _insist_shards(manifest: Manifest, settings: Settings) -> None:
    if (shards := len(manifest.ledger)) != settings.shards:
        raise Unfit(f"the backup is of {shards} shards, the settings say {settings.shards}: set shards = {shards}")


# --- taking -----------------------------------------------------------------------------------------------------


async def _copy(known: Settings, data_dir: Path, work: Path, tell: Tell) -> Manifest:
    taken_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    write(work / "instance.json", (data_dir / "instance.json").read_bytes())
    copy_tree(data_dir / "keys", work / "keys")
    await _copy_stream(known.nats_url, STOCK, work)
    ledger, journal = await _places(known)
    source, target = data_dir / "valkey" / APPEND_ONLY, work / "valkey" / APPEND_ONLY
    await asyncio.to_thread(copy_append_only, source, target, tell, "ledger")
    await copy_postgres(known.postgres_url, work / "postgres", tell, "postgres")
    await _copy_stream(known.nats_url, AVAILABILITY, work)
    files = await asyncio.to_thread(hashed, work, tell, "hash")
    manifest = Manifest(FORMAT, _version(), taken_at, ledger, journal, files)
    write(work / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


def _version() -> str:
    try:
        return version("availability")
    except PackageNotFoundError:  # it runs from its sources
        return "of its sources"


async def _copy_stream(url: str, name: str, work: Path) -> None:
    about, content = _stream_files(work, name)
    with private(about) as about_file, private(content) as content_file:
        there = await copy_stream(url, name, about_file, content_file)
    if not there:
        about.unlink()
        content.unlink()


def _stream_files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "nats" / f"{name}.json", folder / "nats" / f"{name}.snapshot"


async def _places(known: Settings) -> tuple[list[At], list[At]]:
    """How far the ledger and its journal have come by now."""
    ledger, journal = ledger_of(known, lambda _operations, _seconds: None, lambda _shard, _run: None), None
    try:
        journal = await Journal.open(known.postgres_url)
        ends = [(await journal.end(shard)).place for shard in range(known.shards)]
        standings = [(await ledger.standing(shard, end)).place for shard, end in enumerate(ends)]
    finally:
        await ledger.close()
        if journal is not None:
            await journal.close()
    return _told(standings), _told(ends)


def _told(places: list[Place]) -> list[At]:
    return [At(shard, place.epoch, place.seq) for shard, place in enumerate(places)]


# --- putting back -----------------------------------------------------------------------------------------------


def _unpack(source: Path, work: Path, tell: Tell) -> None:
    write(work / "instance.json", (source / "instance.json").read_bytes())
    copy_tree(source / "keys", work / "keys")
    copy_tree(source / "valkey", work / "valkey")
    tell("unpack", 1, 2)
    put_back_postgres(source / "postgres", work / "postgres")
    tell("unpack", 2, 2)


async def _opened(settings: Settings, source: Path, work: Path, manifest: Manifest, tell: Tell) -> str | None:
    """Why the ledger must not be changed yet, as its servers say that were started for this; None when it may be."""
    instance = Instance(work)
    try:
        async with servers_started(settings, instance, SERVERS) as known:
            for name in (STOCK, AVAILABILITY):
                await _put_back_stream(known.nats_url, name, source)
            ledger, journal = await _places(known)
            for what, there, said in (("ledger", ledger, manifest.ledger), ("journal", journal, manifest.journal)):
                if less := [at for at, wanted in zip(there, said, strict=True) if _order(at) < _order(wanted)]:
                    raise Unfit(f"the {what} in {source} has less than its manifest says, at {less[0]}: take another")
            async with compared_ledger(known) as (_, reason):
                tell("compare", 1, 1)
                return reason
    finally:
        instance.close()


async def _put_back_stream(url: str, name: str, source: Path) -> None:
    about, archive = _stream_files(source, name)
    if about.exists():
        with archive.open("rb") as content:
            await put_back_stream(url, name, about.read_bytes(), content)


def _order(at: At) -> tuple[int, int]:
    return at.epoch, at.seq
