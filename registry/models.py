"""What a registry tells us, independent of any wire format.

Sizes are bytes, times are integer nanoseconds since the epoch (UTC), digests are raw bytes whose
number tells the algorithm (see `registry.names`).

Another registry's webhook plugs in as a module beside `registry.notifications` that turns its
deliveries into `Notification`s; nothing behind this module knows a wire format.
"""

from typing import Final, Literal

import msgspec

from registry.media_types import BLOB, ManifestKind

MAX_SIZE: Final = 2**63 - 1
"""Largest size that a registry (Go's int64) or Postgres (bigint) can hold, in bytes."""

OWN_USER_AGENT_PREFIX: Final = "registry-quota/"
"""Our requests are recognised by it: their pulls say nothing about an image being used."""

Action = Literal["push", "pull", "mount", "delete"]


# `gc=False` (here and below): these only ever hold plain values and tuples of them, so they cannot
# be part of a cycle; not tracking them keeps the collector out of the hot path.
class Descriptor(msgspec.Struct, frozen=True, gc=False):
    """What a manifest says about a thing it refers to.

    `size` is what the client declared. `media_type` is the client's text: anything but NUL.
    `has_urls`: it may live elsewhere; only storage tells whether the registry has it, too.
    """

    digest: bytes
    size: int
    media_type: str = ""
    has_urls: bool = False


class Notification(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One thing that happened in a registry.

    `id` names the event and stays the same when it is delivered again. `size` is the size of the
    manifest document or blob, 0 when it was not told. `references` is what a manifest refers to
    (config, then layers with repeats; or an index's children), None when it was not told. `method` is
    that of the request which caused it, "" when it was not told.
    """

    id: str
    timestamp_ns: int
    action: Action
    repository: str
    digest: bytes | None = None
    tag: str | None = None
    media_type: str = ""
    size: int = 0
    from_repository: str | None = None
    references: tuple[Descriptor, ...] | None = None
    artifact_type: str | None = None
    method: str = ""
    user_agent: str = ""
    instance_id: str = ""

    @property
    def is_blob(self) -> bool:
        """A layer or config, not a manifest. A delete does not tell (its media type is empty)."""
        return self.media_type == BLOB

    @property
    def is_look(self) -> bool:
        """A pull that fetched nothing: somebody asked whether it is there, or whether it has changed."""
        return self.action == "pull" and self.method.upper() == "HEAD"

    @property
    def is_own(self) -> bool:
        """Caused by a request of ours."""
        return self.user_agent.startswith(OWN_USER_AGENT_PREFIX)


class ParsedManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest document says.

    `kind` is `unknown` for documents that we do not read: what they refer to is not known then,
    which is not the same as nothing. An artifact manifest and one of schema 1 are images without a
    config; schema 1 tells no sizes (0).
    """

    media_type: str
    kind: ManifestKind
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    children: tuple[Descriptor, ...] = ()
    subject: bytes | None = None
    artifact_type: str | None = None

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """What a notification lists: config, then layers, or children; never the subject."""
        if self.kind == "index":
            return self.children
        return self.layers if self.config is None else (self.config, *self.layers)
