"""Owns how a NATS URL becomes a connection: whose answers are heard, and the certificates that are believed."""

import ssl
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def connection_options(nats_url: str) -> dict[str, Any]:
    """What ``nats.connect`` takes for this URL. Answers come to an inbox of the user's own, which nobody else hears.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` in its query are the files that ``Settings`` put there. Raises ``OSError``
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
