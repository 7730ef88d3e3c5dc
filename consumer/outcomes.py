"""What became of each event: one line in the log and one count."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from aiokafka import ConsumerRecord

from ledger.facts import BlobStored, Fact, ManifestPulled
from registry.models import Notification
from registry.names import format_digest

Result = Literal["recorded", "ignored", "dead_letter"]

MOST_LINES: Final = 50
"""Events of one transaction that have a line each; of more, one line tells how many."""

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


def about(record: ConsumerRecord) -> dict[str, Any]:
    """What the log tells of a record that cannot be read."""
    return {
        "workspace": (record.key or b"").decode(errors="replace"),
        "partition": record.partition,
        "offset": record.offset,
    }


def summary(decoded: Sequence[Decoded]) -> dict[str, Any]:
    """The log's line about a batch of many events: how many of what, and of how many workspaces."""
    tally = Counter(f"{item.action}_{item.result}" for item in decoded)
    return {
        "events": len(decoded),
        "workspaces": len({item.record.key for item in decoded}),
        "partitions": sorted({item.record.partition for item in decoded}),
        **dict(sorted(tally.items())),
    }


def line(item: Decoded) -> dict[str, Any]:
    """The log's line about an event."""
    notification, record = item.notification, item.record
    if notification is None:
        return about(record)
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
