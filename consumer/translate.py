"""Notifications → facts. PURE.

The rules are those of registry-facts.md: a manifest's event names its document's size, a blob's
size comes from storage, a moved tag is a plain push, a delete names a digest or a tag.
"""

from ledger.contents import believable, content_of_references
from ledger.facts import (
    BlobStored,
    Fact,
    ManifestDeleted,
    ManifestPulled,
    ManifestPushed,
    ManifestSeen,
    TagRemoved,
)
from registry.models import Notification
from registry.notifications import event_uuid


def facts_of(registry: str, notification: Notification) -> Fact | None:
    """What a notification from `registry` (its id) says, or None when it changes nothing."""
    stamp = (notification.timestamp_ns, event_uuid(notification.id))
    repository, digest = notification.repository, notification.digest
    if notification.action == "delete":
        if notification.tag is not None:
            return TagRemoved(registry, repository, notification.tag, stamp)
        return None if digest is None else ManifestDeleted(registry, repository, digest, stamp)
    if digest is None:
        return None
    if notification.is_blob:
        if notification.action == "pull" or not believable(digest, notification.size):
            return None
        return BlobStored(digest, notification.size)
    if notification.action == "pull":
        if notification.is_own:
            return None
        return ManifestPulled(registry, repository, digest, stamp)
    if notification.action == "mount":
        return None  # only blobs are mounted
    # What we put back exists again; it was not pushed anew and does not become the newest image.
    fact = ManifestSeen if notification.is_restored else ManifestPushed
    return fact(
        registry,
        repository,
        digest,
        stamp,
        notification.media_type,
        notification.size,
        notification.tag,
        content_of_references(notification.media_type, notification.references),
    )
