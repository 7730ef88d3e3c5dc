"""Certificates for tests, made by an authority of their own."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

HERE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """PEM files of a chain and its key."""

    certificate: Path
    key: Path

    def replace_by(self, other: "Pair") -> None:
        """As a renewal does: first one file, then the other."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


class Authority:
    """Signs certificates; whoever trusts `file` trusts them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self._issued = 0
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(
        self, *names: str, not_before: datetime | None = None, not_after: datetime | None = None
    ) -> Pair:
        """A certificate for these names and addresses (of this machine, without any).

        `not_before` and `not_after` say when it is good, otherwise it is good now.
        """
        self._issued += 1
        issued = self._ca.issue_cert(*(names or HERE), not_before=not_before, not_after=not_after)
        pair = Pair(
            self._folder / f"{self._issued}.crt.pem", self._folder / f"{self._issued}.key.pem"
        )
        pair.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        # PKCS #8: the one form that Java reads, too.
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pair.key.chmod(0o600)
        return pair
