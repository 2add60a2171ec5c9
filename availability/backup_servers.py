"""Owns taking a copy of an embedded Valkey's and Postgres' data while they run, and putting Postgres' back."""

import asyncio
import os
import re
import signal
import tarfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from availability import embedded, launch
from availability.backup_folder import Tell, copy, write

APPEND_ONLY = "appendonlydir"
APPEND_ONLY_MANIFEST = "appendonly.aof.manifest"
ATTEMPTS = 100
PROGRESS = re.compile(rb"(\d+)/(\d+) kB")


class NotCopied(Exception):
    """A server's data could not be copied, or put back; the text says why. It can be tried again."""


def copy_append_only(source: Path, target: Path, tell: Tell, step: str) -> None:
    """Copy Valkey's append-only files, with all that was acknowledged before this.

    The manifest names them in order: they never change once there is one behind them, and the last only grows. All are
    opened before the manifest is read again; when it is the same, they are what it says, also if a rewrite removes
    them while they are copied. The last may be cut in the middle of a command, which Valkey drops at its start.
    """
    with ExitStack() as opened:
        for _ in range(ATTEMPTS):
            manifest = (source / APPEND_ONLY_MANIFEST).read_bytes()
            names = [line.split()[1].decode() for line in manifest.splitlines() if not line.endswith(b" type h")]
            try:
                files = [opened.enter_context((source / name).open("rb")) for name in names]
            except FileNotFoundError:
                continue  # a rewrite has just ended
            if (source / APPEND_ONLY_MANIFEST).read_bytes() == manifest:
                break
            opened.close()
        else:
            raise NotCopied(f"the manifest in {source} does not stay the same for a moment")
        sizes = [os.fstat(file.fileno()).st_size for file in files]
        done = 0

        def more(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            tell(step, done, sum(sizes))

        for name, file, size_bytes in zip(names, files, sizes, strict=True):
            copy(file, size_bytes, target / name, more)
        current = [line for line in manifest.splitlines(keepends=True) if not line.endswith(b" type h\n")]
        write(target / APPEND_ONLY_MANIFEST, b"".join(current))


async def copy_postgres(url: str, target: Path, tell: Tell, step: str) -> None:
    """Copy the whole cluster as it is when this ends, by ``pg_basebackup``, as tar files."""
    server = urlsplit(url)
    argv = [str(embedded.postgres_binaries() / "pg_basebackup"), "--pgdata", str(target), "--format=tar"]
    argv += ["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password"]
    argv += ["--host", str(server.hostname), "--port", str(server.port), "--username", str(server.username)]
    process = await asyncio.create_subprocess_exec(
        *launch.command(argv, death_signal=signal.SIGKILL),
        env={"PGPASSWORD": server.password or ""},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.read(4_096):
        said += chunk
        if shown := PROGRESS.findall(said):
            tell(step, 1_024 * int(shown[-1][0]), 1_024 * int(shown[-1][1]))
    if await process.wait() != 0:
        raise NotCopied(f"pg_basebackup failed: {said.decode(errors='replace').strip()}")


def put_back_postgres(source: Path, folder: Path) -> None:
    """Unpack such a copy to ``folder``/data, for the user that Postgres runs as here."""
    data = folder / "data"
    data.mkdir(mode=0o700, parents=True)
    for name, place in (("base.tar", data), ("pg_wal.tar", data / "pg_wal")):
        with tarfile.open(source / name) as archive:
            archive.extractall(place, filter="data")
    uid = embedded.postgres_uid()
    for path in [data, *data.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if uid is not None:
            os.chown(path, uid, uid)
