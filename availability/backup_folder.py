"""Owns the folder that a backup is: whole or not there, with a manifest that knows every byte of it."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20

Tell = Callable[[str, int, int], None]
"""Who is told how far it has come: a step, and how many of how many bytes of it are done."""


class Unfit(Exception):
    """The folder cannot be used for this, or is not what its manifest says; the text says why."""


class File(Struct, frozen=True):
    """What a file must be; ``sha256`` in hexadecimal."""

    size_bytes: int
    sha256: str


class At(Struct, frozen=True):
    """A shard's place in its journal."""

    shard: int
    epoch: int
    seq: int


class Manifest(Struct, frozen=True):
    """What a backup has: the places that its ledger and its journal have surely come to, and each file by its path.

    ``version`` is that of the package that took it, ``taken_at`` when it began, as 2026-11-24T12:00:00Z.
    """

    format: int
    version: str
    taken_at: str
    ledger: list[At]
    journal: list[At]
    files: dict[str, File]


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder to fill, for its owner's eyes only, which becomes ``target`` at the end; removed when the block fails.

    ``Unfit`` when ``target`` has something in it.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Unfit(f"{target} is not empty: name a folder that is, or is not there yet")
    work = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)  # of one that was killed
    work.mkdir(mode=0o700, parents=True)
    try:
        yield work
        _sync(work)
        work.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write(path: Path, content: bytes) -> None:
    """A new file that is on the disk when this returns."""
    with private(path) as file:
        file.write(content)


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """A new file for its owner's eyes only, which is on the disk at the end."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def copy(source: BinaryIO, size_bytes: int, path: Path, tell: Callable[[int], None]) -> None:
    """Copy so many bytes, which ``source`` must have, to a new file; ``tell`` gets the bytes of each step."""
    with private(path) as file:
        left = size_bytes
        while left:
            if not (chunk := source.read(min(left, CHUNK_BYTES))):
                raise Unfit(f"{path.name} ends {left} bytes early")
            file.write(chunk)
            left -= len(chunk)
            tell(len(chunk))


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files of a folder that does not change."""
    for path in _files(source):
        with path.open("rb") as file:
            copy(file, path.stat().st_size, target / path.relative_to(source), lambda _bytes: None)


def hashed(folder: Path, tell: Tell, step: str) -> dict[str, File]:
    """What there is in the folder, but for its manifest, as it is on the disk."""
    paths = [path for path in _files(folder) if path != folder / MANIFEST]
    total, done = sum(path.stat().st_size for path in paths), 0
    found = {}
    for path in paths:
        digest, size_bytes = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                done += len(chunk)
                tell(step, done, total)
        found[path.relative_to(folder).as_posix()] = File(size_bytes, digest.hexdigest())
    return found


def verified(folder: Path, tell: Tell, step: str) -> Manifest:
    """The manifest of a backup, every file of which is there and as it was; ``Unfit`` otherwise."""
    file = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Unfit(f"{folder} is not a whole backup: {file} cannot be read ({error})") from error
    if manifest.format != FORMAT:
        raise Unfit(f"{folder} is a backup of format {manifest.format}: use availability {manifest.version}")
    found = hashed(folder, tell, step)
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) != manifest.files.get(name):
            state = "missing" if name not in found else "altered" if name in manifest.files else "not of it"
            raise Unfit(f"the backup in {folder} is damaged: {name} is {state}; take another one")
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
