"""Notifications captured from real registries, with the truth of what was in the registry then.

They lie beside the checkout in `shared/registry-events`, or where `RQ_CAPTURES` says. Tests that use
them skip, and say so, where they are not: call `captures_or_skip`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "registry-events"
_NOT_SCENARIOS = {"api", "scenarios", "delivery-probe"}


@dataclass(frozen=True)
class Delivery:
    """One POST that the registry made. `body` is indented as on the wire; `answered` was its answer."""

    body: bytes
    envelope: dict[str, Any]
    headers: dict[str, str]
    answered: int | str

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.envelope["events"]
        return events


@dataclass(frozen=True)
class Manifest:
    """A manifest document as it was in the registry."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Capture:
    """A scenario as one version of the registry reported it."""

    folder: Path
    scenario: str

    def __str__(self) -> str:
        return f"{self.folder.name}/{self.scenario}"

    @property
    def version(self) -> str:
        """`v2.8.2` or `v3.0.0`."""
        return self.folder.name

    @property
    def has_references(self) -> bool:
        """False for the `.norefs` twin of a scenario."""
        return not self.scenario.endswith(".norefs")

    def deliveries(self) -> list[Delivery]:
        """In order of arrival; a retried delivery is there again."""
        return [
            Delivery(
                body=json.dumps(entry["body"], indent=3, ensure_ascii=False).encode(),
                envelope=entry["body"],
                headers=entry["headers"],
                answered=entry["answered"],
            )
            for entry in _load(self.folder / f"{self.scenario}.json")
        ]

    def raw_events(self) -> list[bytes]:
        """Every event on its own, as the topic would hold it."""
        return [
            json.dumps(event, indent=3, ensure_ascii=False).encode()
            for delivery in self.deliveries()
            for event in delivery.events
        ]

    def manifests(self) -> dict[str, Manifest]:
        """Digest text → the manifests that took part."""
        return {
            digest: Manifest(entry["body"].encode(), entry["media_type"])
            for digest, entry in _load(self.folder / "manifests" / f"{self.scenario}.json").items()
        }

    def truth(self) -> dict[str, Any]:
        """What the registry held at the end: `repositories`, `workspaces` with their bytes."""
        truth: dict[str, Any] = _load(self.folder / "truth" / f"{self.scenario}.json")
        return truth


def captures_root() -> Path:
    """Where the captures are, or would be."""
    return Path(os.environ.get("RQ_CAPTURES") or _DEFAULT)


def all_captures() -> list[Capture]:
    """Every scenario of every version; empty when there are no captures."""
    return list(_find())


def captures_or_skip() -> list[Capture]:
    """Every scenario; skips the calling test when there are no captures."""
    captures = all_captures()
    if not captures:
        pytest.skip(f"no captured notifications at {captures_root()} (set RQ_CAPTURES)")
    return captures


def raw_deliveries_or_skip() -> list[bytes]:
    """The few bodies that were kept exactly as they came over the wire."""
    captures_or_skip()
    files = sorted(captures_root().glob("v*/raw/*.txt"))
    return [path.read_bytes().partition(b"\n\n")[2] for path in files]


def _find() -> Iterator[Capture]:
    for folder in sorted(captures_root().glob("v*")):
        for path in sorted(folder.glob("*.json")):
            if path.stem not in _NOT_SCENARIOS:
                yield Capture(folder, path.stem)


@cache
def _load(path: Path) -> Any:
    return json.loads(path.read_text())
