"""May the build go on? The arithmetic and the words of the pre-build hook. PURE.

Everything is exact: bytes are integers and ratios parts per million (cleanup.md, "Decision").
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from quota.policy import PPM, Policy
from quota.words import format_bytes
from runtime.figures import percent

Enforcement = Literal["advisory", "strict"]
Outcome = Literal["proceed", "deny"]
Reason = Literal[
    "below_threshold", "cleaned_to_target", "still_above_target", "over_quota", "check_failed"
]

_LARGEST_APPS: Final = 3
"""Apps named in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a decision is taken on, read under the workspace's lock. All in bytes."""

    usage_bytes: int
    reserved_bytes: int
    """Reserved for other builds; the asking build's own reservation is not in it."""
    incoming_bytes: int
    quota_bytes: int

    def __post_init__(self) -> None:
        if self.quota_bytes <= 0:
            raise ValueError(f"a quota must be positive, not {self.quota_bytes}")
        if min(self.usage_bytes, self.reserved_bytes, self.incoming_bytes) < 0:
            raise ValueError(f"bytes cannot be negative: {self}")

    @property
    def total_bytes(self) -> int:
        """Usage, reserved and incoming together."""
        return self.usage_bytes + self.reserved_bytes + self.incoming_bytes

    @property
    def can_be_reserved(self) -> bool:
        """Whether all that is set aside stays within the quota: for more, others would have to delete."""
        return self.reserved_bytes + self.incoming_bytes <= self.quota_bytes

    @property
    def can_ever_fit(self) -> bool:
        """Whether the incoming build alone is within the quota. If not, nothing is deleted for it."""
        return self.incoming_bytes <= self.quota_bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """The hook's answer."""

    decision: Outcome
    reason: Reason
    message: str
    """What a person reads in the build's log."""


def needs_cleanup(figures: Figures, policy: Policy) -> bool:
    """Whether usage + reserved + incoming has reached the trigger."""
    return figures.total_bytes * PPM >= policy.trigger_ppm * figures.quota_bytes


def target_bytes(quota_bytes: int, policy: Policy) -> int:
    """The largest usage + reserved + incoming, in bytes, that is at or below the target."""
    return policy.target_ppm * quota_bytes // PPM


def decide(
    workspace: str,
    figures: Figures,
    policy: Policy,
    *,
    enforcement: Enforcement,
    cleanup_tried: bool,
    obstacle: str | None = None,
    largest_apps: Sequence[tuple[str, int]] = (),
    build_id: str | None = None,
) -> Verdict:
    """Decide on figures read after cleanup (or on the first ones, when none was needed).

    `cleanup_tried`: the trigger had been reached when the hook was called. `obstacle`: why cleanup
    did not do more, in words. `largest_apps`: (app, its bytes), the largest first, and `build_id`, by
    which the build's reservation is known, are for the message.

    The reason is `over_quota` when the incoming build alone is larger than the quota, and
    `still_above_target` whenever cleanup did not reach its target. A strict workspace denies when
    usage + reserved + incoming is above the quota; an advisory one never does.
    """
    reason: Reason
    if not figures.can_ever_fit:
        reason = "over_quota"
    elif not cleanup_tried and not needs_cleanup(figures, policy):
        reason = "below_threshold"
    elif figures.total_bytes <= target_bytes(figures.quota_bytes, policy):
        reason = "cleaned_to_target"
    else:
        reason = "still_above_target"
    denied = enforcement == "strict" and figures.total_bytes > figures.quota_bytes
    plan = _plan_command(workspace, figures.incoming_bytes, build_id)
    message = _message(workspace, figures, reason, obstacle, largest_apps, plan, denied=denied)
    return Verdict("deny" if denied else "proceed", reason, message)


def decide_unchecked(workspace: str, cause: str, *, enforcement: Enforcement) -> Verdict:
    """The answer when the quota could not be checked: advisory proceeds, strict denies."""
    denied = enforcement == "strict"
    end = (
        "the build is stopped, because this workspace is strict" if denied else "the build goes on"
    )
    return Verdict(
        "deny" if denied else "proceed",
        "check_failed",
        f"The quota of workspace {workspace} could not be checked ({cause}); {end}.",
    )


def _message(
    workspace: str,
    figures: Figures,
    reason: Reason,
    obstacle: str | None,
    largest_apps: Sequence[tuple[str, int]],
    plan: str,
    *,
    denied: bool,
) -> str:
    total, quota = figures.total_bytes, figures.quota_bytes
    standing = (
        f"Workspace {workspace}: {format_bytes(figures.usage_bytes)} stored"
        f" + {format_bytes(figures.reserved_bytes)} reserved"
        f" + {format_bytes(figures.incoming_bytes)} incoming"
        f" = {format_bytes(total)} of {format_bytes(quota)} ({percent(total, quota)})."
    )
    if reason == "below_threshold":
        return standing
    if reason == "cleaned_to_target":
        return f"{standing} There is room."
    sentences = [standing]
    if reason == "over_quota":
        sentences.append(
            f"This build alone is {format_bytes(figures.incoming_bytes - quota)} larger than the"
            " quota; nothing was deleted for it."
        )
    elif total > quota:
        sentences.append(f"{format_bytes(total - quota)} are missing.")
    if obstacle is not None:
        sentences.append(f"Cleanup could not do more: {obstacle}.")
    if largest_apps:
        named = ", ".join(
            f"{app} {format_bytes(size)}" for app, size in largest_apps[:_LARGEST_APPS]
        )
        sentences.append(f"Most is held by {named}.")
    if total > quota:
        sentences.append(
            "Delete images that are no longer needed, keep fewer per app, or raise the quota;"
            f" `{plan}` says why each image stays."
        )
    elif obstacle is not None:
        sentences.append(f"`{plan}` says why each image stays.")
    sentences.append("The build is denied." if denied else "The build goes on.")
    return " ".join(sentences)


def _plan_command(workspace: str, incoming_bytes: int, build_id: str | None) -> str:
    """The command that shows what was decided on: with the build's bytes, and each of them once."""
    words = ["registry-quota", "plan", workspace]
    if incoming_bytes:
        words += ["--incoming", str(incoming_bytes)]
        words += [] if build_id is None else ["--build", build_id]
    return shlex.join(words)
