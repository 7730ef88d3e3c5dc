"""How full a workspace is, in four words, without flapping. PURE.

A level rises as soon as its threshold is reached and falls only when the ratio is 0.04 below it
(contract.md, "Topics"), so that nobody is alerted again and again at the cleanup target.
"""

from typing import Final, Literal

Level = Literal["ok", "warning", "critical", "exceeded"]

LEVELS: Final[tuple[Level, ...]] = ("ok", "warning", "critical", "exceeded")
"""From empty to too full."""

THRESHOLD_PERCENT: Final[dict[Level, int]] = {
    "ok": 0,
    "warning": 70,
    "critical": 90,
    "exceeded": 100,
}
"""A level is reached from this ratio of usage to quota on, in percent."""

HYSTERESIS_PERCENT: Final = 4
"""A level is held while the ratio is above its threshold less this much."""


def level(current: Level, usage_bytes: int, quota_bytes: int) -> Level:
    """The level after `current`, from usage and quota in bytes, by integer arithmetic.

    It is the highest level whose threshold is reached, or the current one or a lower one while
    the ratio is still above that level's threshold less 0.04, whichever is higher.

    Raises:
        ValueError: the quota is not positive, the usage is negative, or `current` is no level.
    """
    if quota_bytes <= 0:
        raise ValueError(f"a quota must be positive, not {quota_bytes}")
    if usage_bytes < 0:
        raise ValueError(f"usage cannot be negative: {usage_bytes}")
    if current not in THRESHOLD_PERCENT:
        raise ValueError(f"not a level: {current!r}")
    used = usage_bytes * 100
    may_hold = LEVELS.index(current)
    for index in range(len(LEVELS) - 1, 0, -1):
        threshold = THRESHOLD_PERCENT[LEVELS[index]]
        reached = used >= threshold * quota_bytes
        held = index <= may_hold and used > (threshold - HYSTERESIS_PERCENT) * quota_bytes
        if reached or held:
            return LEVELS[index]
    return "ok"
