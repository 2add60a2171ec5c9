"""The Lua library: joined from ``lua/*.lua``, named by its content, loaded into a server once.

The name holds a hash of the text, so old and new versions of the service call their own text side by side.
"""

import hashlib
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, ResponseError

from ledger.errors import Unavailable
from ledger.placement import command

_SHARED = (
    # "stock" as early as it can be, because its own locals come on top of those before it.
    *("prelude", "positions", "reservations", "changes", "overdue", "stock"),
    *("answers", "operating", "call", "claiming", "locations"),
)
_GROUPS = {
    ("planning", "granting", "hold_row"): ("hold",),
    ("spanning",): ("look", "prepare", "seal", "drop", "reclaim", "part", "finish", "forget", "unfinished"),
}
"""Files whose locals only these verbs see."""
_STOCK = ("window", "window_packing", "reports", "folding", "authority", "convergence")
_ENDING = ("overcommitted", "flush")
_LAST = ("ending", "batch")


class Library(NamedTuple):
    """``text`` is what FUNCTION LOAD takes; the others are its functions' names."""

    name: str
    text: str
    batch: str
    batch_allow_oom: str
    fence: str
    clear: str


@cache
def library() -> Library:
    """The library of this version of the service."""
    folder = resources.files("ledger") / "lua"
    names = sorted(file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    texts = {name: (folder / f"{name}.lua").read_text() for name in names}
    grouped = {name for group in _GROUPS.items() for part in group for name in part}
    alone = set(names).difference(grouped, _SHARED, _STOCK, _ENDING, _LAST)
    # Every verb has its own locals, and so has a group of them: Lua allows 200 that all can see.
    verbs = [_own([], [texts[name]]) for name in sorted(alone)]
    verbs += [_own([texts[name] for name in files], [texts[name] for name in of]) for files, of in _GROUPS.items()]
    # The stock rule and the writing, too, have their own.
    for name, files in (("stock", _STOCK), ("ending", _ENDING)):
        own = "\n".join(texts[file] for file in files)
        texts[name] += f"do\n{own}end\n"
    parts = [*(texts[name] for name in _SHARED), *verbs, *(texts[name] for name in _LAST)]
    body = "\n".join(parts)
    version = hashlib.sha256(body.encode()).hexdigest()[:12]
    name = f"availability_{version}"
    return Library(
        name,
        f"#!lua name={name}\n{body.replace('VERSION', version)}",
        f"batch_{version}",
        f"batch_allow_oom_{version}",
        f"fence_{version}",
        f"clear_{version}",
    )


def _own(files: list[str], verbs: list[str]) -> str:
    """Verbs, each with locals of its own, behind what only they share."""
    blocks = [f"do\n{verb}end" for verb in verbs]
    return "\n".join(["do", *files, *blocks, "end\n"])


async def load(connection: AbstractConnection, library: Library) -> bool:
    """Loads the library unless the server has it already, whose name tells its content; whether it had to.

    Raises RedisError or OSError, or Unavailable when the server does not take it, or not from this user.
    """
    if await command(connection, "FUNCTION", "LIST", "LIBRARYNAME", library.name):
        return False
    try:
        await command(connection, "FUNCTION", "LOAD", library.text)
    except NoPermissionError as error:
        raise Unavailable("the ledger's server has not got our library: run `availability migrate`") from error
    except ResponseError as error:
        if "already exists" in str(error):
            return False
        if type(error) is not ResponseError:
            raise  # its kind tells why, as that of a server that is a replica does
        raise Unavailable("the ledger's server refuses our library") from error
    return True


async def put_back(connection: AbstractConnection, library: Library) -> bool:
    """Replaces what bears the library's name and is not it; whether there was such a thing. Raises as ``load``."""
    if all(text == library.text for text in await texts_of(connection, library)):
        return False
    await command(connection, "FUNCTION", "LOAD", "REPLACE", library.text)
    return True


async def texts_of(connection: AbstractConnection, library: Library) -> list[str]:
    """The texts of the libraries that bear the name of this one: one or none. Raises RedisError or OSError."""
    found: Any = await command(connection, "FUNCTION", "LIST", "LIBRARYNAME", library.name, "WITHCODE")
    return [dict(zip(each[::2], each[1::2], strict=True))[b"library_code"].decode() for each in found]
