"""Order by versions, for those who want it: policy `order: semver`. PURE.

The precedence is Semantic Versioning's (https://semver.org, 11). Read as a version is `v1.2.3`, `1.2.3-rc.1`,
`1.2` (1.2.0) and `v1` (1.0.0); a bare number (`20261201`, `4711`) is a date or a build as often, and no
version. Everything else goes by when a tag came to name it, behind all versions.

It is twelve lines and a table of examples; a library would add how tags differ from versions on top.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from quota.plan import Manifest

Identifier = tuple[int, int, str]
"""A number before all texts, each by its own order."""
Version = tuple[int, int, int, bool, tuple[Identifier, ...]]
"""(major, minor, patch, whether it is a release, pre-release identifiers): compared as it stands."""

_NUMBER: Final = r"(0|[1-9][0-9]*)"
_VERSION: Final = re.compile(
    rf"(v?){_NUMBER}(?:\.{_NUMBER}(?:\.{_NUMBER}(?:-([0-9A-Za-z.-]+))?)?)?", re.ASCII
)
_NUMERIC: Final = re.compile(_NUMBER, re.ASCII)


def version_of(tag: str) -> Version | None:
    """A tag as a version; None for what is none."""
    match = _VERSION.fullmatch(tag)
    if match is None or not (match[1] or match[3]):
        return None
    identifiers = match[5].split(".") if match[5] else []
    if any(not part or (part.isdigit() and not _NUMERIC.fullmatch(part)) for part in identifiers):
        return None
    return (
        int(match[2]),
        int(match[3] or 0),
        int(match[4] or 0),
        not identifiers,
        tuple([(0, int(p), "") if p.isdigit() else (1, 0, p) for p in identifiers]),
    )


def highest(tags: Iterable[str]) -> Version | None:
    """The highest version among an image's tags."""
    return max((v for tag in tags if (v := version_of(tag)) is not None), default=None)


def standing(tags: Iterable[str], moment_ns: int) -> tuple[bool, tuple[Version, ...], int]:
    """What sorts an image, the lowest first: those with a version behind those without."""
    version = highest(tags)
    return (version is not None, () if version is None else (version,), moment_ns)


def by_version(manifests: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """The same manifests, those of each app in order of their versions.

    The moments at which an app's images came to be named are given to them anew: the newest to the
    highest version, and so on. So all that goes by newest and oldest goes by versions within an app and
    by time between apps; how old an image is (`min_age`) stays what it is. What has no tags, no age, or
    belongs to an app without versions keeps its place.
    """
    apps: dict[str, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, manifest in enumerate(manifests):
        if manifest.tags and manifest.age_known:
            apps[manifest.app][manifest.digest].append(number)
    found = list(manifests)
    for images in apps.values():
        ranked = []
        for digest, numbers in images.items():
            moment = max(manifests[n].pushed_at_ns for n in numbers)
            tags = (
                tag
                for n in numbers
                for tag in manifests[n].tags
                if tag not in manifests[n].unanswered
            )
            ranked.append(((standing(tags, moment), digest), numbers))
        if not any(key[0][0] for key, _numbers in ranked):
            continue
        moments = sorted(key[0][2] for key, _numbers in ranked)
        earlier = -1
        for moment, (_key, numbers) in zip(moments, sorted(ranked), strict=True):
            earlier = max(moment, earlier + 1)
            for n in numbers:
                found[n] = replace(
                    manifests[n], pushed_at_ns=earlier, named_at_ns=manifests[n].named_ns
                )
    return tuple(found)
