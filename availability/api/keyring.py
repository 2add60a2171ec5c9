"""Keeps the issuer's keys fresh in the background; no request ever waits for it (RFC 8725, CVE-2026-48524)."""

import asyncio
import logging
import ssl
import urllib.request
from pathlib import Path
from typing import Final

from availability.api.tokens import Tokens

REFRESH_S: Final = 300.0
"""Keys are read again this often, and at an unknown ``kid``, but never more than once in ``REFRESH_MIN_S``."""
REFRESH_MIN_S: Final = 60.0
LOOK_S: Final = 0.5
DOCUMENT_BYTES_MAX: Final = 1_000_000
_FETCH_TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key set comes from the address in the settings and from nowhere else."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def read_document(jwks_file: str, jwks_url: str, ca_file: str = "") -> bytes:
    """The JWKS from its file or, without one, its URL (http or https only). Raises ``OSError`` or ``ValueError``.

    ``ca_file`` has who signed the certificate there; without one, it is whom the system believes.
    """
    if jwks_file:
        with Path(jwks_file).open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX)
    if not jwks_url or not jwks_url.lower().startswith(("https://", "http://")):
        raise ValueError("neither jwks_file nor a jwks_url with http or https is set")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file or None)),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoRedirect(),
    ):
        opener.add_handler(handler)
    with opener.open(jwks_url, timeout=_FETCH_TIMEOUT_S) as response:
        document: bytes = response.read(DOCUMENT_BYTES_MAX)
    return document


async def keep_fresh(tokens: Tokens, jwks_file: str, jwks_url: str, ca_file: str = "") -> None:
    """Load the keys until cancelled; a failure is logged and leaves the last good ones in place."""
    loop = asyncio.get_running_loop()
    tried_s = -REFRESH_S
    while True:
        if _due(tokens, loop.time() - tried_s):
            tried_s = loop.time()
            try:
                document = await asyncio.to_thread(read_document, jwks_file, jwks_url, ca_file)
                if tokens.keys.load(document):
                    tokens.forget()
            except (OSError, ValueError) as error:
                log.warning("the issuer's keys could not be loaded: %s", error)
        await asyncio.sleep(LOOK_S)


def _due(tokens: Tokens, age_s: float) -> bool:
    if not tokens.keys.loaded:
        return age_s >= LOOK_S
    return age_s >= (REFRESH_MIN_S if tokens.keys.unknown_kid_seen else REFRESH_S)
