"""What the demo pushes: releases of three apps, built on the spot from layers that they share. PURE.

The sizes are chosen so that the last release crosses 80 % of the quota, and that making room for
the next build takes every kind of candidate: an untagged manifest, images beyond the newest 3 of
their app (one of them an index with its children), and one beyond the newest 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from registry.push import Blob, Image, Index, build_image, build_index, build_layer

KIB: Final = 1024
QUOTA_BYTES: Final = 20 * KIB**2
ANNOUNCED_BYTES: Final = 1600 * KIB
"""What the next build says that it will bring; in fact it brings a little less."""

_BASE_BYTES: Final = 3300 * KIB
_DEPENDENCIES_BYTES: Final = 1000 * KIB
_CODE_BYTES: Final = {"api": 800 * KIB, "worker": 600 * KIB, "web": 400 * KIB}
_NEXT_CODE_BYTES: Final = 1500 * KIB
_PLATFORMS: Final = {"web": ("amd64", "arm64")}
"""Apps that are an index with one image for each platform; the others are plain images."""

# App and tags, in the order of pushes. Two names of one digest: 1.0 and 1.0.0. A moved tag that
# leaves an untagged manifest behind: nightly. One that leaves none: latest.
_SCHEDULE: Final = (
    ("api", ("1.0", "1.0.0")),
    ("worker", ("1.0",)),
    ("web", ("1.0",)),
    ("api", ("nightly",)),
    ("api", ("1.1",)),
    ("worker", ("1.1",)),
    ("web", ("1.1",)),
    ("api", ("nightly",)),
    ("worker", ("1.2",)),
    ("api", ("1.2", "stable", "latest")),
    ("web", ("1.2",)),
    ("worker", ("1.3",)),
    ("api", ("1.3", "latest")),
    ("web", ("1.3", "latest")),
)
RELEASES: Final = len(_SCHEDULE)


@dataclass(frozen=True)
class Release:
    """An image or index of an app, and the tags it is pushed under."""

    app: str
    tags: tuple[str, ...]
    content: Image | Index

    @property
    def images(self) -> tuple[Image, ...]:
        """The image itself, or one for each platform."""
        return self.content.images if isinstance(self.content, Index) else (self.content,)

    @property
    def manifests(self) -> tuple[Blob, ...]:
        """Every manifest document: children first, then what the tags name."""
        children = tuple(image.manifest for image in self.images if image is not self.content)
        return (*children, self.content.manifest)

    @property
    def name(self) -> str:
        """`api:1.2 stable latest`."""
        return f"{self.app}:{' '.join(self.tags)}"


class Builder:
    """Builds releases. The same seed gives the same bytes, another seed shares none with it."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._base = self._layer("base", _BASE_BYTES)
        self._dependencies = {
            app: self._layer(f"{app}/dependencies", _DEPENDENCIES_BYTES) for app in _CODE_BYTES
        }

    def releases(self) -> Iterator[Release]:
        """The releases that fill the workspace, in the order of pushes."""
        for number, (app, tags) in enumerate(_SCHEDULE):
            yield self._release(app, tags, f"release {number}", _CODE_BYTES[app])

    def next_release(self) -> Release:
        """The build that the hook makes room for."""
        return self._release("api", ("1.4", "latest"), "next release", _NEXT_CODE_BYTES)

    def _release(self, app: str, tags: tuple[str, ...], label: str, code_bytes: int) -> Release:
        images = {
            platform: build_image(
                (
                    self._base,
                    self._dependencies[app],
                    self._layer(f"{app}/{label}/{platform}", code_bytes),
                ),
                architecture=platform,
                label=label,
            )
            for platform in _PLATFORMS.get(app, ("amd64",))
        }
        content = build_index(images) if app in _PLATFORMS else images["amd64"]
        return Release(app, tags, content)

    def _layer(self, name: str, size: int) -> Blob:
        return build_layer(f"{self._seed}/{name}", size)
