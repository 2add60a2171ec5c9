"""Owns throw-away certificate authorities, and servers that speak TLS in front of ours, whose wheels cannot."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of Postgres sends first when it wants TLS; the server says S or N."""


class Authority:
    """A certificate authority; its certificate is in the file ``ca``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = self._made(name, self._key, None)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._own.public_bytes(Encoding.PEM))

    def issue(self, host: str) -> tuple[Path, Path]:
        """The files with a certificate for this address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_file = (self._folder / f"{self._name}-{host}.{kind}" for kind in ("crt", "key"))
        certificate.write_bytes(self._made(host, key, ip_address(host)).public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key_file

    def context(self, host: str = "127.0.0.1", clients: Path | None = None) -> ssl.SSLContext:
        """A server's, which proves to be this address, and lets in only whom the CA ``clients`` has signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(host))
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        return context

    def _made(self, name: str, key: ec.EllipticCurvePrivateKey, address: object) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
        if address is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)  # type: ignore[arg-type]
        return builder.sign(self._key, hashes.SHA256())


@asynccontextmanager
async def tls_before(port: int, context: ssl.SSLContext, *, postgres: bool = False) -> AsyncIterator[int]:
    """The port of a server that ends TLS and passes on in plain text; ``postgres``: after it was asked for TLS."""
    passing: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if postgres:
                if await reader.readexactly(8) != SSL_REQUEST:
                    writer.close()
                    return
                writer.write(b"S")
                await writer.start_tls(context)
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
            for source, target in ((reader, behind), (behind_reader, writer)):
                passing.add(asyncio.create_task(_pass_on(source, target)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while chunk := await source.read(65_536):
                target.write(chunk)
                await target.drain()
    finally:
        target.close()
