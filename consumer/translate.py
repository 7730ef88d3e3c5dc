"""Notifications → facts. PURE.

The rules are those of registry-facts.md: a manifest's event names its document's size, a blob's
size comes from storage, a moved tag is a plain push, a delete names a digest or a tag.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from ledger.ahead import AHEAD_NS
from ledger.contents import believable, content_of_references
from ledger.facts import (
    BlobStored,
    DigestDeleted,
    Fact,
    ManifestPulled,
    ManifestPushed,
    ManifestSeen,
    TagRemoved,
)
from registry.marks import OwnMarks
from registry.models import Notification
from registry.notifications import event_uuid

AgentRule = Callable[[str], object]
"""Truthy for a user agent whose pulls say nothing about an image being used."""


def no_agent(_user_agent: str) -> object:
    """Everybody's pulls count."""
    return None


def agents_like(patterns: Sequence[str]) -> AgentRule:
    """Those that match one of the globs (`*`, `?`, `[seq]`), whole and in any case."""
    if not patterns:
        return no_agent
    return re.compile("|".join(translate(pattern) for pattern in patterns), re.IGNORECASE).match


def facts_of(
    registry: str,
    notification: Notification,
    ignored: AgentRule = no_agent,
    *,
    pull_through: bool = False,
    arrived_ns: int | None = None,
    own: OwnMarks | None = None,
) -> Fact | None:
    """What a notification from `registry` (its id) says, or None when it changes nothing.

    A pull counts when it fetched the manifest (a HEAD did not), by nobody whom `ignored` knows.

    `pull_through`: the registry is a cache, and stores what is fetched from it, whoever does: it tells
    of that as a pull what others tell of a push.
    `arrived_ns` is when it came (nanoseconds); None: its stamp is believed. `own` tells what we put back.
    """
    came_ns = arrived_ns
    if arrived_ns is None or notification.timestamp_ns <= arrived_ns + AHEAD_NS:
        arrived_ns = -1
    stamp = (notification.timestamp_ns, event_uuid(notification.id))
    repository, digest = notification.repository, notification.digest
    if notification.action == "delete":
        if notification.tag is not None:
            return TagRemoved(registry, repository, notification.tag, stamp, arrived_ns)
        return (
            None
            if digest is None
            else DigestDeleted(registry, repository, digest, stamp, arrived_ns)
        )
    if digest is None:
        return None
    if notification.is_blob:
        told = notification.action != "pull" or pull_through
        if not told or not believable(digest, notification.size):
            return None
        return BlobStored(digest, notification.size, registry, repository)
    if notification.action == "pull" and pull_through and notification.is_look:
        return None  # the document alone is stored, some hundred bytes
    if notification.action == "pull" and not pull_through:
        if notification.is_own or notification.is_look or ignored(notification.user_agent):
            return None
        return ManifestPulled(registry, repository, digest, stamp, arrived_ns)
    if notification.action == "mount":
        return None  # only blobs are mounted
    # What we put back exists again; it was not pushed anew and does not become the newest image.
    put_back = own is not None and own.made(notification, came_ns)
    seen = put_back or notification.action == "pull"
    fact = ManifestSeen if seen else ManifestPushed
    return fact(
        registry,
        repository,
        digest,
        stamp,
        notification.media_type,
        notification.size,
        notification.tag,
        content_of_references(notification.media_type, notification.references),
        arrived_ns=arrived_ns,
    )
