"""The warning that a workspace's people see when its quota is nearly used up. PURE.

Texts, thresholds and the format of sizes are public: dashboards show the same words. The element
`<registry-quota-warning>` (static/registry-quota-warning.js) says them, too; a test compares both.
"""

from typing import Final, Literal

import msgspec

from quota.words import format_bytes

_WARN_PERCENT: Final = 70
_FULL_PERCENT: Final = 90


class Notice(msgspec.Struct, frozen=True):
    """What is shown."""

    severity: Literal["warning", "critical"]
    title: str
    text: str


def _whole_percent(usage_bytes: int, quota_bytes: int) -> int:
    """As these texts have it: halves rounded up."""
    return (usage_bytes * 200 + quota_bytes) // (2 * quota_bytes)


def warning(usage_bytes: int, quota_bytes: int) -> Notice | None:
    """What to say; None below 70 %. Thresholds are exact, the percentage in the text is rounded."""
    used = usage_bytes * 100
    if used < _WARN_PERCENT * quota_bytes:
        return None
    figures = (
        f"Using {format_bytes(usage_bytes)} of {format_bytes(quota_bytes)} "
        f"({_whole_percent(usage_bytes, quota_bytes)}%)."
    )
    if usage_bytes >= quota_bytes:
        return Notice(
            "critical",
            "Registry Quota Exceeded",
            f"{figures} Oldest images will be automatically cleaned up on next build.",
        )
    if used >= _FULL_PERCENT * quota_bytes:
        return Notice(
            "critical",
            "Registry Almost Full",
            f"{figures} Oldest images will be automatically cleaned up on next build.",
        )
    return Notice(
        "warning",
        "Registry Usage Warning",
        f"{figures} Consider adding your own registry or cleaning up old images.",
    )
