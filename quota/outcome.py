"""What a cleanup did, so far or in the end."""

from uuid import UUID

import msgspec


class Deleted(msgspec.Struct, frozen=True):
    """An image that is gone, and what that freed in bytes."""

    repository: str
    app: str
    digest: str
    tags: tuple[str, ...]
    freed_bytes: int
    why: str
    code: str
    """As in the plan; `goes_with_…`: part of another image, which is told beside it."""


class Failed(msgspec.Struct, frozen=True):
    """An image that was to go and did not."""

    repository: str
    digest: str
    reason: str


class Spared(msgspec.Struct, frozen=True):
    """An image that was to go and stays, for what happened after the plan was made."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    code: str
    """As in a plan."""
    reason: str


class Outcome(msgspec.Struct):
    """What a cleanup did so far; complete when `done`."""

    run_id: UUID | None = None
    images: list[Deleted] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)
    spared: list[Spared] = msgspec.field(default_factory=list)
    target_reached: bool = False
    """Known at the end: not while the cleanup goes on."""
    warnings: list[str] = msgspec.field(default_factory=list)
    obstacle: str | None = None
    """Why the target was not reached, in words."""
    stopped: bool = False
    """Whether something that a person has to mend kept it from going on."""
    done: bool = False
    rehearsed: bool = False
    """Whether nothing was deleted: what stands here is what would be."""
    let_go: frozenset[bytes] = frozenset()
    """Of a rehearsal: digests that the account would hold no more."""

    @property
    def freed_bytes(self) -> int:
        """Bytes that the account fell by."""
        return sum(image.freed_bytes for image in self.images)

    def warn(self, *codes: str) -> None:
        """Add warnings, each once."""
        for code in codes:
            if code not in self.warnings:
                self.warnings.append(code)


class StopError(Exception):
    """Nothing more can be deleted; the message says why, `warning` names it for programs."""

    def __init__(self, warning: str, message: str) -> None:
        super().__init__(message)
        self.warning = warning


class PlanChangedError(Exception):
    """The stored plan does not hold any more; `changes` says what changed, a sentence each."""

    def __init__(self, changes: list[str]) -> None:
        super().__init__("; ".join(changes))
        self.changes = changes
