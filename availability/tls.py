"""Owns what the servers' URLs must be, and how they ask for TLS: the files of the settings are written into them here.

A URL says whether a link is encrypted (``rediss://``, ``tls://``, ``sslmode=verify-full``), and then the server's
certificate and name are always verified; no link ever falls back to plain text.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

FILES: Final = {
    "redis_standby_url": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    "redis_url": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    "nats_url": ("tls_ca", "tls_cert", "tls_key"),
    "postgres_url": ("sslrootcert", "sslcert", "sslkey"),
}
"""What the files with the CA, our certificate and its key are called in the query of each URL."""
SCHEMES: Final = {
    "redis_standby_url": ("redis", "rediss", "unix"),
    "redis_url": ("redis", "rediss", "unix"),
    "nats_url": ("nats", "tls"),
    "postgres_url": ("postgresql", "postgres"),
}


def flaw_of(name: str, url: str) -> str | None:
    """Why a URL is refused: it names no such server, or it would let the link be less than its words say."""
    for each in _each(name, url):
        try:
            parts = urlsplit(each)
            if "," not in parts.netloc:  # asyncpg takes several hosts in one URL
                parts.port  # noqa: B018 this is what reads it
        except ValueError:
            return "its address cannot be read (a port is a number up to 65535)"
        if parts.scheme not in SCHEMES[name]:
            return f"it must begin with {' or '.join(f'{scheme}://' for scheme in SCHEMES[name])}"
    mode = dict(parse_qsl(urlsplit(url).query)).get("sslmode") if name == "postgres_url" else None
    if mode in {None, "disable", "verify-full"}:
        return None
    return f"sslmode={mode} may be plain text, or believe any server: say verify-full, or disable"


def with_files(name: str, url: str, files: tuple[str, str, str]) -> str:
    """The URL with the files (CA, certificate, key; "" = none) that it does not name itself, if it asks for TLS."""
    return ",".join(_with(each, files, FILES[name]) for each in _each(name, url))


def _each(name: str, url: str) -> list[str]:
    """The URLs in a setting that may name several servers, which those of Valkey do."""
    return re.split(r",\s*(?=\w+://)", url) if name.startswith("redis_") else [url]


def _with(url: str, files: tuple[str, str, str], names: tuple[str, str, str]) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if not _asks_for_tls(parts.scheme, query):
        return url
    given = {name: file for name, file in zip(names, files, strict=True) if file}
    return parts._replace(query=urlencode(given | query)).geturl()


def _asks_for_tls(scheme: str, query: Mapping[str, str]) -> bool:
    return scheme in {"rediss", "tls"} or query.get("sslmode") == "verify-full"
