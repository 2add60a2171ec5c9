"""Owns who may do what on the servers: the users of each, with the least that their work needs (P10).

``config/valkey.acl`` and ``config/nats.conf`` say the same for servers of your own, and tests keep them equal; the
roles of Postgres stand in ``config/postgres-roles.sql`` and ``ledger/sql/grants.sql``.
"""

import hashlib
import hmac
from typing import Final
from urllib.parse import unquote, urlsplit

OWNER: Final = "availability"
"""Of an embedded server: may do everything there. No process of the service comes as this user, nor as ``default``."""

API, INGEST, JOURNAL, KEEPER = "api", "ingest", "journal", "keeper"
OPERATOR: Final = "operator"
"""Who runs the operator's tools, and ``availability migrate`` at each new version."""
MONITOR: Final = "monitor"
"""Who only looks: ``availability doctor``, and what collects figures."""

_CONNECTING: Final = (
    *("+acl|whoami", "+client|setinfo", "+client|setname", "+cluster|nodes", "+cluster|slots", "+config|get"),
    *("+function|list", "+info", "+ping", "+time"),
)
"""What a process asks before it trusts a server: which shards it has, how it is set, whether it has the library."""

LUA: Final = (
    *("+del", "+exists", "+get", "+hdel", "+hget", "+hgetall", "+hmget", "+hset", "+mget", "+mset", "+persist"),
    *("+pexpire", "+set", "+time", "+xadd", "+xlen", "+zadd", "+zrangebyscore", "+zrem"),
)
"""What the library's scripts call. A server asks for each of them as if the caller had sent it, in the middle of the
script, and what was written before a refusal stays: so each must be allowed, to everyone who may call the library."""

FILLING: Final = ("+unlink",)
"""What the functions of the library call that only who fills a ledger anew may use."""

_AUDITING: Final = ("+exec", "+multi", "+scan")
"""By which the keeper compares the ledger with its journal: many keys, and the entry that they are of."""

_ASKING_SHARDS: Final = "(+get %R~{s*}:shard)"
"""How many there are, which each process asks, and `doctor`."""

_DECIDING: Final = ("~{s*}:*", *_CONNECTING, *LUA, "+fcall", "+xrange")

VALKEY: Final[dict[str, tuple[str, ...]]] = {
    API: _DECIDING,
    INGEST: _DECIDING,
    KEEPER: (*_DECIDING, *_AUDITING),
    JOURNAL: ("~{s*}:journal", *_CONNECTING, "+xrange", "+xread", "+xrevrange", "+xtrim", _ASKING_SHARDS),
    OPERATOR: (
        *_DECIDING,
        *_AUDITING,
        *FILLING,
        *("+client|list", "+function|load", "+xread", "+xrevrange", "+xtrim", "+zcount"),
        # To make a replica the ledger's server.
        *("+config|rewrite", "+replicaof"),
    ),
    MONITOR: ("%R~{s*}:*", *_CONNECTING, "+cluster|info", "+xlen", _ASKING_SHARDS),
    "replica": ("+ping", "+psync", "+replconf"),
}
"""The rules of each user of Valkey, without their passwords."""


_LOOKING: Final = ("$JS.API.CONSUMER.INFO.*.*", "$JS.API.STREAM.INFO.*")

NATS: Final[dict[str, tuple[str, ...]]] = {
    API: _LOOKING,
    KEEPER: _LOOKING,
    MONITOR: _LOOKING,
    INGEST: (
        *_LOOKING,
        # To make both when they are gone, never to change or remove them.
        *("$JS.API.STREAM.CREATE.STOCK", "$JS.API.CONSUMER.CREATE.STOCK.ingest"),
        *("$JS.API.CONSUMER.DURABLE.CREATE.STOCK.ingest", "$JS.API.CONSUMER.MSG.NEXT.STOCK.ingest"),
        # The second is the form that servers announce to come.
        *("$JS.ACK.STOCK.ingest.>", "$JS.ACK.*.*.STOCK.ingest.>"),
    ),
    JOURNAL: (*_LOOKING, "$JS.API.STREAM.CREATE.AVAILABILITY", "availability.>"),
}
"""The subjects that each user of NATS may publish on. Each hears the answers in its own inbox, ``_INBOX_<user>.>``."""

DEMO: Final = "demo"
DEMO_SUBJECTS: Final = tuple(f"stock.demo-{source}.>" for source in ("erp", "pos"))


def nats_users(owner_password: str) -> list[dict[str, object]]:
    """The users of an embedded NATS: the owner, the processes, and the sources of the demo."""
    lesser: list[dict[str, object]] = [
        {"user": user, "password": password_of(owner_password, user), "permissions": nats_permissions(user, subjects)}
        for user, subjects in {**NATS, DEMO: DEMO_SUBJECTS}.items()
    ]
    return [{"user": OWNER, "password": owner_password}, *lesser]


def nats_permissions(user: str, subjects: tuple[str, ...]) -> dict[str, list[str]]:
    return {"publish": sorted(subjects), "subscribe": [f"_INBOX_{user}.>"]}


def password_of(owner_password: str, user: str) -> str:
    """The password of a user of an embedded server: it does not tell the owner's, from which it is made."""
    return hmac.new(owner_password.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def as_user(owner_url: str, user: str) -> str:
    """The URL by which a lesser user of an embedded server comes, from the owner's."""
    parts = urlsplit(owner_url)
    password = password_of(unquote(parts.password or ""), user)
    name = f"{OWNER}_{user}" if parts.scheme.startswith("postgres") else user
    return parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def valkey_acl(owner_password: str | None = None) -> list[str]:
    """The lines of an ACL file: with an owner and passwords, or as config/valkey.acl has it, without both."""
    if owner_password is None:
        return ["user default reset off", *(_line(user, rules) for user, rules in VALKEY.items())]
    return [
        "user default reset off",
        _line(OWNER, ("~*", "&*", "+@all"), owner_password),
        *(_line(user, rules, password_of(owner_password, user)) for user, rules in VALKEY.items()),
    ]


def _line(user: str, rules: tuple[str, ...], password: str | None = None) -> str:
    """Begins with ``reset``, because rules are added to what a user had before."""
    secret = "" if password is None else f" #{hashlib.sha256(password.encode()).hexdigest()}"
    return f"user {user} reset on{secret} {' '.join(sorted(set(rules)))}"
