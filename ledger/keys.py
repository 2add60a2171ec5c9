"""The names of the ledger's keys that Python itself uses; ledger/README.md lists every key of a shard."""

from urllib.parse import unquote
from zlib import crc32


def shard_of(name: str, shards: int) -> int:
    """The shard of a SKU (or of an operation's id): the same in every process and version, so never changed."""
    return crc32(name.encode()) % shards


def shard_tag(shard: int) -> str:
    """The hash tag that puts all keys of a shard into one slot."""
    return f"{{s{shard}}}"


def shard_key(shard: int) -> str:
    """The shard's own record: its epoch, the seq of its last journal entry and its clock."""
    return f"{shard_tag(shard)}:shard"


def absent_key(shard: int) -> str:
    """No key has this name, ever. A call that names it is refused whole while keys leave the slot one by one."""
    return f"{shard_tag(shard)}:absent"


def clock_key(shard: int) -> str:
    """The mark of who saw the clock of the shard's server jump, or of who accepted it; see server_clock.py."""
    return f"{shard_tag(shard)}:clock"


def journal_key(shard: int) -> str:
    """The stream of the shard's journal entries; the id of an entry is ``<epoch>-<seq>``."""
    return f"{shard_tag(shard)}:journal"


def unescaped(text: str) -> str:
    """A SKU, or another name, as it was before it went into a key (``escaped`` in prelude.lua)."""
    return unquote(text)


def escaped(text: str) -> str:
    """A SKU, or another name, as it stands in a key (``escaped`` in prelude.lua)."""
    return text.translate(_ESCAPES)


_ESCAPES = {ord(char): f"%{ord(char):02X}" for char in "%:{}"}
