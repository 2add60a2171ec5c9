"""The Lua library: joined from ``lua/*.lua``, named by its content, loaded into a server once.

The name holds a hash of the text, so old and new versions of the service call their own text side by side.
"""

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

_SHARED = (
    # "stock" as early as it can be, because its own locals come on top of those before it.
    *("prelude", "positions", "reservations", "changes", "overdue", "stock"),
    *("answers", "operating", "call", "claiming", "locations", "spanning"),
)
_HOLDING = ("planning", "granting", "hold_row")
_STOCK = ("window", "reports", "folding", "authority", "convergence")
_ENDING = ("overcommitted", "flush")
_LAST = ("ending", "batch")


class Library(NamedTuple):
    """``text`` is what FUNCTION LOAD takes; the others are its functions' names."""

    name: str
    text: str
    batch: str
    batch_allow_oom: str
    fence: str


@cache
def library() -> Library:
    """The library of this version of the service."""
    folder = resources.files("ledger") / "lua"
    names = sorted(file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    verbs = [name for name in names if name not in _SHARED + _HOLDING + _STOCK + _ENDING + _LAST]
    texts = {name: (folder / f"{name}.lua").read_text() for name in names}
    texts["hold"] = "\n".join(texts[name] for name in (*_HOLDING, "hold"))
    for name in verbs:
        texts[name] = f"do\n{texts[name]}end\n"  # its own locals; Lua allows 200 that all can see
    # The stock rule and the writing, too, have their own.
    for name, files in (("stock", _STOCK), ("ending", _ENDING)):
        own = "\n".join(texts[file] for file in files)
        texts[name] += f"do\n{own}end\n"
    body = "\n".join(texts[name] for name in (*_SHARED, *verbs, *_LAST))
    version = hashlib.sha256(body.encode()).hexdigest()[:12]
    name = f"availability_{version}"
    return Library(
        name,
        f"#!lua name={name}\n{body.replace('VERSION', version)}",
        f"batch_{version}",
        f"batch_allow_oom_{version}",
        f"fence_{version}",
    )


async def load(connection: AbstractConnection, library: Library) -> None:
    """Loads the library unless the server has it already; its name tells its content."""
    try:
        await connection.send_command("FUNCTION", "LOAD", library.text)
        await connection.read_response()
    except ResponseError as error:
        if "already exists" not in str(error):
            raise
