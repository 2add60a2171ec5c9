"""Owns how a NATS URL becomes a connection: whose answers are heard, and the certificates that are believed."""

import ssl
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from nats.aio.client import Client
from nats.errors import Error


class VerifyingClient(Client):
    """A client that speaks TLS or not at all when its URL asks for it.

    nats-py 2.16 takes a server's word that it has no TLS, and would send it the password in plain text.
    """

    async def _process_info(self, info: dict[str, Any], *more: Any, **named: Any) -> None:
        if "tls" in self.options and not info.get("tls_required"):
            raise Error("the server speaks no TLS")
        await super()._process_info(info, *more, **named)


async def connect(nats_url: str, **options: Any) -> Client:
    """A connection; the options are those of ``nats.connect``, which raises ``nats.errors.Error`` or ``OSError``."""
    client = VerifyingClient()
    try:
        await client.connect(**connection_options(nats_url), **options)
    except BaseException:
        await client.close()
        raise
    return client


def connection_options(nats_url: str) -> dict[str, Any]:
    """What a client's ``connect`` takes for this URL. Answers come to an inbox of the user's own, heard by nobody else.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` in its query are the files that the settings put there. Raises ``OSError``
    when one of them cannot be read.
    """
    parts = urlsplit(nats_url)
    options: dict[str, Any] = {"servers": parts._replace(query="").geturl()}
    if parts.username and parts.password:
        options["inbox_prefix"] = f"_INBOX_{unquote(parts.username)}"
    if parts.scheme == "tls":
        files = {name: values[0] for name, values in parse_qs(parts.query).items()}
        context = ssl.create_default_context(cafile=files.get("tls_ca"))
        if "tls_cert" in files:
            context.load_cert_chain(files["tls_cert"], files.get("tls_key"))
        options["tls"] = context
    return options
