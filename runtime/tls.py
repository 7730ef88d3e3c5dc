"""TLS: the certificate of our own doors, whom our connections trust, what a failed handshake means.

TLS 1.2 at least, everywhere. Certificates and names are always verified: there is no switch against it.
"""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Final, NamedTuple

from runtime.logs import get_logger
from runtime.settings import Settings, SettingsError

log = get_logger(__name__)

_OLDEST: Final = ssl.TLSVersion.TLSv1_2
_PROBE_SECONDS: Final = 3.0

NO_TLS_THERE: Final = (
    "it does not speak TLS there: connect without (http://, PLAINTEXT), or by its TLS port"
)
_NO_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "PACKET_LENGTH_TOO_LONG",
    }
)
"""What OpenSSL calls an answer that is none of TLS."""
_TOO_OLD: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"}
)
_EXPIRED, _NOT_YET = 10, 9
_OTHER_NAME, _OTHER_ADDRESS = 62, 64
"""`verify_code`s of OpenSSL."""


class _State(NamedTuple):
    """What of a file changes when it is replaced, also behind a link (as Kubernetes mounts secrets)."""

    inode: int
    size: int
    modified_ns: int


class DoorCertificate:
    """The certificate and key of a door, taken anew as soon as their files are replaced.

    Whoever was let in by the old one stays; the next handshake has the new one. Files that do not fit
    each other (half of them are written) leave the old pair in place.
    """

    def __init__(self, certificate: str, key: str) -> None:
        """Take PEM files: the chain, the door's own certificate first, and its key without a password.

        Raises SettingsError when they are not that.
        """
        self._certificate, self._key = Path(certificate), Path(key)
        self._seen = self._states()
        try:
            self._context, self._pair = self._load()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"RQ_TLS_CERT={certificate} and RQ_TLS_KEY={key} are not a certificate and its key "
                f"({_why(error)}); both are PEM files, the key without a password"
            ) from error
        self._renewals = 0

    def server_context(self) -> ssl.SSLContext:
        """For a server: every handshake asks for the newest certificate."""
        context, _pair = self._load()

        def newest(connection: ssl.SSLObject, _name: str | None, _of: ssl.SSLContext) -> None:
            self.renew()
            connection.context = self._context

        context.sni_callback = newest  # called without a name in the handshake, too
        return context

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Key and chain in force, as PEM."""
        return self._pair

    def renew(self) -> int:
        """Take the files if they were replaced; how often that gave another certificate so far."""
        states = self._states()
        if states != self._seen:
            self._seen = states
            try:
                self._context, self._pair = self._load()
            except (OSError, ValueError) as error:
                # Half of a new pair, most likely: the other half changes the files' state again.
                log.warning("certificate_not_renewed", file=str(self._certificate), why=_why(error))
            else:
                self._renewals += 1
                log.info("certificate_renewed", file=str(self._certificate))
        return self._renewals

    def _load(self) -> tuple[ssl.SSLContext, tuple[bytes, bytes]]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = _OLDEST
        # A password is never asked for: there is nobody at the terminal.
        context.load_cert_chain(self._certificate, self._key, password="")
        return context, (self._key.read_bytes(), self._certificate.read_bytes())

    def _states(self) -> tuple[_State | None, _State | None]:
        return _state(self._certificate), _state(self._key)


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _State(found.st_ino, found.st_size, found.st_mtime_ns)


def door_certificate(settings: Settings) -> DoorCertificate | None:
    """What our doors show (`RQ_TLS_CERT`, `RQ_TLS_KEY`); None: they speak plain. SettingsError."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError(
            "RQ_TLS_CERT and RQ_TLS_KEY belong together; set both (PEM files), or neither"
        )
    return DoorCertificate(settings.tls_cert, settings.tls_key)


def client_context(settings: Settings) -> ssl.SSLContext:
    """For connections that we open: whom the system trusts, and `RQ_CA_FILE`. SettingsError."""
    context = ssl.create_default_context()
    context.minimum_version = _OLDEST
    if settings.ca_file is not None:
        trust(context, settings.ca_file, "RQ_CA_FILE")
    return context


def authorities(settings: Settings) -> bytes | None:
    """For gRPC, which takes all authorities as one PEM text: `RQ_CA_FILE` alone. SettingsError.

    None: whom the library trusts by itself.
    """
    if settings.ca_file is None:
        return None
    client_context(settings)  # says so when there are no certificates in it
    return read_pem(settings.ca_file, "RQ_CA_FILE")


def read_pem(path: str, variable: str) -> bytes:
    """A PEM file's bytes. Raises SettingsError that names the `variable`."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}={path} cannot be read ({_why(error)})") from error


def only_trusting(ca_file: str, variable: str) -> ssl.SSLContext:
    """For connections to somebody whose authority is known by name. Raises SettingsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _OLDEST
    trust(context, ca_file, variable)
    return context


def trust(context: ssl.SSLContext, ca_file: str, variable: str) -> None:
    """Trust the certificates of a PEM file, too. Raises SettingsError that names the `variable`."""
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{variable}={ca_file} holds no certificates ({_why(error)}); it is a PEM file of the "
            "authorities that are trusted"
        ) from error


def advice(error: BaseException | None, *, authority: str = "RQ_CA_FILE") -> str | None:
    """What mends a failed handshake, for a person; None when that is not what went wrong.

    Libraries wrap the error: its causes are looked through. `authority` is the setting that names
    whom we trust.
    """
    looked_at: set[int] = set()
    while error is not None and id(error) not in looked_at:
        looked_at.add(id(error))
        found = error
        # aiohttp keeps the reason of a failed connection beside it.
        for name in ("certificate_error", "os_error"):
            inner = getattr(error, name, None)
            if isinstance(inner, ssl.SSLError):
                found = inner
        if isinstance(found, ssl.SSLError):
            return _advice(found, authority)
        error = error.__cause__ or error.__context__
    return None


def _advice(error: ssl.SSLError, authority: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
            return (
                "its certificate is for another name: connect by a name that is in it, or give it one "
                "that has this name"
            )
        if error.verify_code in (_EXPIRED, _NOT_YET):
            return "its certificate is not valid now: renew it, and compare the clocks"
        return (
            f"its certificate was signed by nobody who is trusted here: set {authority} to a PEM file "
            "of the authority that signed it"
        )
    reason = error.reason or ""
    if reason in _NO_TLS:
        return (
            "it does not speak TLS there: connect without (http://, PLAINTEXT), or by its TLS port"
        )
    if reason in _TOO_OLD:
        return "it only speaks a TLS older than 1.2: update it"
    if "CERTIFICATE" in reason:
        return f"it does not take our certificate ({reason.lower()})"
    return f"the TLS handshake failed ({_why(error)})"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


async def speaks_tls(host: str, port: int) -> bool:
    """Whether somebody at this address takes part in a handshake; asked for a few seconds."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=_anything())
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _anything() -> ssl.SSLContext:
    """Trusts everybody, to find out whether there is TLS at all: nothing is ever sent by it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
