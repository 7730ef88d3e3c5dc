"""Our own HTTP doors by TLS: who gets in, what those are told who do not, and a renewal."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509

from cli.client import ApiClient
from cli.console import CommandError
from runtime.http import serving
from runtime.settings import Settings
from runtime.tls import DoorCertificate, client_context, door_certificate
from tests.support.certificates import Authority, Pair


def certificate_of(pair: Pair) -> DoorCertificate:
    door = door_certificate(Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key)))
    assert door is not None
    return door


@asynccontextmanager
async def door(certificate: DoorCertificate | None) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"scheme": request.scheme})

    app = web.Application()
    app.router.add_get("/", answer)
    async with serving(app, host="127.0.0.1", port=0, certificate=certificate) as port:
        yield port


@asynccontextmanager
async def client(address: str, authority: Path | None) -> AsyncIterator[ApiClient]:
    tls = client_context(Settings(ca_file=None if authority is None else str(authority)))
    async with ApiClient(address, "token", tls=tls) as opened:
        yield opened


async def shown_serial(port: int, authority: Authority) -> int:
    """Of the certificate that a new connection is shown."""
    context = client_context(Settings(ca_file=str(authority.file)))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def serial(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number


async def test_whoever_trusts_its_authority_gets_in(tmp_path):
    authority = Authority(tmp_path)
    async with door(certificate_of(authority.issue())) as port:
        for host in ("127.0.0.1", "localhost"):
            async with client(f"https://{host}:{port}", authority.file) as opened:
                assert await opened.call("GET", "/") == {"scheme": "https"}


async def test_those_who_do_not_get_in_are_told_what_to_do(tmp_path):
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "another")
    now = datetime.now(UTC)
    async with (
        door(certificate_of(authority.issue())) as port,
        door(certificate_of(authority.issue("quota.example.com"))) as misnamed,
        door(certificate_of(authority.issue(not_after=now - timedelta(hours=1)))) as expired,
        door(certificate_of(authority.issue(not_before=now + timedelta(hours=1)))) as not_yet,
        door(None) as plain,
    ):
        for address, trusted, told in (
            (f"https://127.0.0.1:{port}", stranger.file, "set RQ_CA_FILE"),
            (f"https://127.0.0.1:{port}", None, "set RQ_CA_FILE"),
            (f"https://127.0.0.1:{misnamed}", authority.file, "for another name"),
            (f"https://127.0.0.1:{expired}", authority.file, "is not valid now: renew it"),
            (f"https://127.0.0.1:{not_yet}", authority.file, "compare the clocks"),
            (f"http://127.0.0.1:{port}", None, "begins with https://"),
            (f"https://127.0.0.1:{plain}", authority.file, "does not speak TLS there"),
        ):
            async with client(address, trusted) as opened:
                with pytest.raises(CommandError, match=told):
                    await opened.call("GET", "/")


async def test_tls_before_1_2_is_refused(tmp_path):
    authority = Authority(tmp_path)
    async with door(certificate_of(authority.issue())) as port:
        old = ssl.create_default_context(cafile=authority.file)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(tmp_path):
    authority = Authority(tmp_path)
    first, second, third = authority.issue(), authority.issue(), authority.issue()
    serials = [serial(pair) for pair in (first, second, third)]
    async with door(certificate_of(first)) as port:
        assert await shown_serial(port, authority) == serials[0]
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=client_context(Settings(ca_file=str(authority.file)))
            )
        ) as kept_alive:
            address = f"https://127.0.0.1:{port}/"
            assert (await kept_alive.get(address)).status == 200
            # Half of the new pair, and then nonsense: the old one stays in force.
            first.certificate.write_bytes(second.certificate.read_bytes())
            assert await shown_serial(port, authority) == serials[0]
            first.key.write_bytes(b"no key")
            assert await shown_serial(port, authority) == serials[0]
            first.replace_by(second)
            assert await shown_serial(port, authority) == serials[1]
            first.replace_by(third)
            assert await shown_serial(port, authority) == serials[2]
            # Who was let in by the old one is not thrown out.
            assert (await kept_alive.get(address)).status == 200


async def test_plain_talk_and_silence_do_not_hold_up_a_door(tmp_path):
    authority = Authority(tmp_path)
    async with door(certificate_of(authority.issue())) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        answered = b""
        with suppress(ConnectionError):
            answered = await reader.read()
        assert b"HTTP/1." not in answered  # ended, and nothing served
        async with client(f"https://127.0.0.1:{port}", authority.file) as opened:
            assert await opened.call("GET", "/") == {"scheme": "https"}
        for _, kept in [*silent, (reader, writer)]:
            kept.transport.abort()
