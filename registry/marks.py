"""What we put back is known by what we did: a mark that only our database's key can make. PURE.

A registry passes on one thing of the request behind an event: its `User-Agent`, which anybody may write.
So beside it stands the run whose deletion is undone, and a MAC over repository, digest and run. It
proves nothing of any other manifest, and nobody can make one for a push of theirs.
"""

import hmac
import re
from typing import Final
from uuid import UUID

import msgspec

from registry.models import OWN_USER_AGENT_PREFIX, Notification

_MARK: Final = re.compile(r" \(restore ([0-9a-f]{32}) ([0-9a-f]{32})\)")
_UNPROVED: Final = " (restore"
"""What an earlier release wrote begins so as well."""
_MAC_BYTES: Final = 16


def restoring(user_agent: str, key: bytes, repository: str, digest: bytes, run: UUID) -> str:
    """Our user agent where a manifest that a cleanup run deleted is put back."""
    return f"{user_agent} (restore {run.hex} {_mac(key, repository, digest, run.hex)})"


class OwnMarks(msgspec.Struct, frozen=True):
    """Tells what we put back by the events of it."""

    key: bytes
    since_ns: int
    """From when on marks are made, nanoseconds by Postgres's clock: what arrived before is told by the
    words of earlier releases."""

    def made(self, notification: Notification, arrived_ns: int | None) -> bool:
        """Whether it tells of a manifest that we put back. `arrived_ns`: as of `facts_of`."""
        agent = notification.user_agent
        if not agent.startswith(OWN_USER_AGENT_PREFIX) or notification.digest is None:
            return False
        start = agent.find(_UNPROVED)
        if start < 0:
            return False
        if arrived_ns is not None and arrived_ns < self.since_ns:
            return True
        found = _MARK.fullmatch(agent, start)
        if found is None:
            return False
        run, told = found.groups()
        return hmac.compare_digest(
            told, _mac(self.key, notification.repository, notification.digest, run)
        )


def _mac(key: bytes, repository: str, digest: bytes, run: str) -> str:
    said = b"\0".join((b"restore", repository.encode(), run.encode(), digest))
    return hmac.digest(key, said, "sha256")[:_MAC_BYTES].hex()
