"""Where the parts of a bar and the lines of a chart stand. PURE: numbers for an SVG, no text of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

import msgspec

from quota.history import Point
from quota.levels import THRESHOLD_PERCENT

BAR_WIDTH: Final = 1000
"""Units of the bar's own coordinates."""
CHART_WIDTH: Final = 800
CHART_HEIGHT: Final = 240
_TOP: Final = 14
_BOTTOM: Final = 26
_HEADROOM: Final = 1.08


class Segment(msgspec.Struct, frozen=True):
    """A part of a bar."""

    x: float
    width: float


class Bar(msgspec.Struct, frozen=True):
    """A workspace as a bar. The whole is the quota, or what is used and reserved when that is more."""

    used: Segment
    reserved: Segment
    awaiting: Segment
    """Freed in the account, still on disk: beside what counts."""
    thresholds: tuple[tuple[int, float], ...]
    """(percent, x)"""


def bar(
    *, quota_bytes: int, usage_bytes: int, reserved_bytes: int = 0, awaiting_bytes: int = 0
) -> Bar:
    """Every part lies within 0 … BAR_WIDTH."""
    whole = max(quota_bytes, usage_bytes + reserved_bytes, 1)

    def x(size: int) -> float:
        return round(min(size, whole) * BAR_WIDTH / whole, 2)

    used, reserved = x(usage_bytes), x(usage_bytes + reserved_bytes)
    return Bar(
        used=Segment(0, used),
        reserved=Segment(used, round(reserved - used, 2)),
        awaiting=Segment(0, x(awaiting_bytes)),
        thresholds=tuple(
            (percent, x(quota_bytes * percent // 100))
            for percent in THRESHOLD_PERCENT.values()
            if percent
        ),
    )


class Mark(msgspec.Struct, frozen=True):
    """A cleanup on the chart."""

    x: float
    at: datetime
    freed_bytes: int


class Line(msgspec.Struct, frozen=True):
    """A threshold on the chart."""

    percent: int
    y: float


class Chart(msgspec.Struct, frozen=True):
    """Usage over time. `area` and `line` are SVG path data."""

    line: str
    area: str
    thresholds: tuple[Line, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, datetime], ...]
    base: float
    """y of 0 bytes."""
    top_bytes: int
    lowest: Point
    highest: Point
    last: Point


def chart(
    points: Sequence[Point],
    cleanups: Sequence[tuple[datetime, int]],
    *,
    start: datetime,
    end: datetime,
) -> Chart | None:
    """A chart of points (oldest first) and cleanups (when, bytes freed); None without points."""
    if not points:
        return None
    span = max((end - start).total_seconds(), 1.0)
    quota = points[-1].quota_bytes
    top = max([quota, *(point.usage_bytes for point in points)]) * _HEADROOM
    base = CHART_HEIGHT - _BOTTOM

    def x(moment: datetime) -> float:
        return round(min(max((moment - start).total_seconds() / span, 0), 1) * CHART_WIDTH, 1)

    def y(size: float) -> float:
        return round(base - size / top * (base - _TOP), 1)

    # A step line: usage holds until it changes.
    steps = [f"M{x(points[0].at)} {y(points[0].usage_bytes)}"]
    for before, point in pairwise(points):
        steps.append(f"H{x(point.at)}")
        if point.usage_bytes != before.usage_bytes:
            steps.append(f"V{y(point.usage_bytes)}")
    line = "".join(steps)
    return Chart(
        line=line,
        area=f"{line}V{base}H{x(points[0].at)}Z",
        thresholds=tuple(
            Line(percent, y(quota * percent / 100))
            for percent in THRESHOLD_PERCENT.values()
            if percent
        ),
        marks=tuple(
            Mark(x(moment), moment, freed) for moment, freed in cleanups if start <= moment <= end
        ),
        ticks=tuple(
            (x(moment), moment) for moment in _ticks(start, end) if 0 < x(moment) < CHART_WIDTH - 30
        ),
        base=base,
        top_bytes=int(top),
        lowest=min(points, key=lambda point: point.usage_bytes),
        highest=max(points, key=lambda point: point.usage_bytes),
        last=points[-1],
    )


def _ticks(start: datetime, end: datetime) -> list[datetime]:
    """Some five moments at even distances."""
    distance = (end - start) / 5
    return [start + distance * number for number in range(1, 5)]


def rows(points: Sequence[Point], most: int = 12) -> list[Point]:
    """Some points for people who read a table instead of a picture; the last one is among them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[number * last // (most - 1)] for number in range(most)]


def span_of(name: str) -> timedelta:
    """A range's length by its name: 24h, 7d, 30d or 90d; another name is the second."""
    return SPANS.get(name, SPANS["7d"])


SPANS: Final = {
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
