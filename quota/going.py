"""What a stored plan deletes, an entry an image: for the pages and the commands that ask. PURE."""

from collections.abc import Mapping
from typing import Any

import msgspec


class Going(msgspec.Struct, frozen=True):
    """An image of a stored plan that would go, with everything that goes with it. Bytes, UTC."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    manifests: int
    freed_bytes: int
    why: str
    pushed_at: str | None
    last_pulled_at: str | None
    """The newest pull of any part of it."""


def going_of(document: Mapping[str, Any]) -> list[Going]:
    """What a stored plan deletes, an entry an image, in the order of deletion."""
    units: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in document["images"]:
        if item["action"] == "delete":
            head = item.get("goes_with") or item["digest"]
            units.setdefault((item["repository"], head), []).append(item)
    return [
        Going(
            repository=members[0]["repository"],
            digest=members[0]["digest"],
            tags=tuple(members[0]["tags"]),
            manifests=len(members),
            freed_bytes=sum(member["freed_bytes"] for member in members),
            why=members[0]["why"].removeprefix("deleted: "),
            pushed_at=members[0].get("pushed_at"),
            last_pulled_at=max(
                (pulled for m in members if (pulled := m.get("last_pulled_at"))), default=None
            ),
        )
        for members in units.values()
    ]
