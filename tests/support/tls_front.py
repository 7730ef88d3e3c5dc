"""TLS in front of a server that has none, as a pooler or stunnel puts it there."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.certificates import Pair

_POSTGRES_ASKS = bytes.fromhex("00000008 04d2162f")
"""`SSLRequest`, by which a client of Postgres asks for TLS before it says anything."""


@asynccontextmanager
async def postgres_by_tls(url: str, pair: Pair | None) -> AsyncIterator[str]:
    """A database's URL by TLS alone; without a pair by none. (The embedded Postgres is built without.)"""
    behind = urlsplit(url)
    assert behind.hostname is not None
    assert behind.port is not None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readexactly(8) != _POSTGRES_ASKS or pair is None:
                writer.write(b"N")
                await writer.drain()
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(_context(pair))
            await _relay(reader, writer, str(behind.hostname), int(behind.port or 0))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went: it did not like the certificate
        finally:
            writer.transport.abort()

    async with _served(serve) as port:
        yield behind._replace(
            netloc=f"{behind.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        ).geturl()


@asynccontextmanager
async def by_tls(target: str, pair: Pair, *, clients: Path | None = None) -> AsyncIterator[str]:
    """`host:port` by TLS of a gRPC server that speaks plain at `target`.

    With `clients`, an authority, only those get in who show a certificate of it.
    """
    host, _, port = target.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _relay(reader, writer, host, int(port))
        except OSError:
            pass
        finally:
            writer.transport.abort()

    context = _context(pair, "h2")
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    async with _served(serve, context) as opened:
        yield f"127.0.0.1:{opened}"


def _context(pair: Pair, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def _served(serve: object, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    """Both ways, until either side ends."""
    to_server, from_client = await asyncio.open_connection(host, port)
    ways = {
        asyncio.create_task(_copy(reader, from_client)),
        asyncio.create_task(_copy(to_server, writer)),
    }
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        from_client.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(65_536):
            target.write(part)
            await target.drain()
