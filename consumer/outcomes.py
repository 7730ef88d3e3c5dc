"""What became of each event: one line in the log and one count."""

from typing import Any, Final, Literal

import msgspec
from aiokafka import ConsumerRecord

from ledger.facts import BlobStored, Fact, ManifestPulled
from registry.models import Notification
from registry.names import format_digest

Result = Literal["recorded", "ignored", "dead_letter"]

UNKNOWN: Final = "unknown"
"""The action of what cannot be read."""


class Decoded(msgspec.Struct):
    """One record, taken apart. `notification` is None for what cannot be read."""

    record: ConsumerRecord
    fact: Fact | None
    notification: Notification | None = None
    refused: bool = False
    """Whether it is a dead letter."""

    @property
    def action(self) -> str:
        """The event's action."""
        return UNKNOWN if self.notification is None else self.notification.action

    @property
    def result(self) -> Result:
        """What became of it."""
        if self.refused:
            return "dead_letter"
        return "ignored" if self.fact is None else "recorded"

    @property
    def telling(self) -> bool:
        """Whether it changed an image: blobs and pulls, many to each, are only for debugging."""
        return self.fact is not None and not isinstance(self.fact, BlobStored | ManifestPulled)


def line(item: Decoded) -> dict[str, Any]:
    """The log's line about an event that was read."""
    notification, record = item.notification, item.record
    if notification is None:
        return {}
    told: dict[str, Any] = {
        "event_id": notification.id,
        "action": notification.action,
        "result": item.result,
        "workspace": (record.key or b"").decode(errors="replace"),
        "repository": notification.repository,
        "digest": format_digest(notification.digest) if notification.digest else None,
        "partition": record.partition,
        "offset": record.offset,
    }
    if notification.tag:
        told["tag"] = notification.tag
    return told
