"""Why something is kept or deleted, in sentences. PURE.

A sentence follows `kept: ` or `deleted: ` and needs nothing beside it to be understood.
"""

from collections.abc import Iterable
from typing import Final

from quota.plan import Manifest, Why
from quota.policy import Order
from quota.words import format_bytes, ordinal, plural
from registry.kinds import CACHE, IMAGE, Kind
from registry.names import format_digest

_SHORT_HEX: Final = 12
UNTAGGED: Final = "untagged"

KEPT_AS: Final[dict[Why, str]] = {
    "newest": "among the newest of their app",
    "only_image": "kept as the only image of their app",
    "latest": "kept as the `latest` of their app",
    "child_of_index": "needed by indexes that stay",
    "follows_image": "referring to images that stay (signatures and the like)",
    "part_kept": "bound to something that has to stay",
    "other_registry": "in another registry, which cannot be cleaned from here",
    "in_use": "in use",
    "pulled_recently": "pulled recently",
    "keep_tag": "kept by a tag pattern",
    "too_young": "younger than the minimum age",
    "in_grace": "untagged for too short a time",
    "pushed_again": "pushed again a moment ago",
    "age_unknown": "of unknown age (`registry-quota images date`, or a push, gives them one)",
    "subject_unknown": "not known to be an image or a referrer",
    "kind_unknown": "of a kind that is not known yet",
    "subject_missing": "referring to something that is not here",
    "size_pending": "not read yet",
    "index_pending": "beside an index that is not read yet",
    "doubted": "about which the registry gives no clear answer",
    "unreadable": "that cannot be pulled",
    "not_found": "not found in the registry",
    "delete_failed": "that could not be deleted",
    "pulled_meanwhile": "kept because pulled meanwhile",
    "stale_lease": "in the scope of a lease source that has stopped reporting",
    "not_configured": "in a workspace that nobody has configured",
    "pull_through_cache": "in a pull-through cache, which deletes nothing",
    "database_older": "in a database that is older than its log",
    "frees_nothing": "without a byte of their own",
}
"""What manifests are that a reason keeps, for a summary; reasons that never miss a target lack."""


_PASSING: Final[frozenset[Why]] = frozenset(
    {"too_young", "in_grace", "pushed_again", "pulled_meanwhile", "size_pending", "index_pending"}
)
"""What ends by itself, and comes again with the next push."""


def obstacle_of(kept_by: Iterable[Why]) -> str:
    """What stands in the way of a target, as one text that is the same while the same does: no figures.

    What passes by itself counts only where nothing else does: it comes and goes with each build.
    """
    codes = {why for why in kept_by if why in KEPT_AS}
    return ",".join(sorted(codes - _PASSING or codes))


def name_of(manifest: Manifest) -> str:
    """`acme/web:3`, by a tag other than `latest` where there is one, else `acme/web@sha256:0123…`."""
    if manifest.tags:
        tag = next((tag for tag in manifest.tags if tag != "latest"), manifest.tags[0])
        return f"{manifest.repository}:{tag}"
    algorithm, _, encoded = format_digest(manifest.digest).partition(":")
    return f"{manifest.repository}@{algorithm}:{encoded[:_SHORT_HEX]}…"


def noun(kind: Kind) -> str:
    """`image`, `build cache`, `chart`, `artifact application/x`."""
    return "build cache" if kind == CACHE else str(kind)


def place(rank: int, kind: Kind, order: Order) -> str:
    """`2nd newest`, of other things than images `2nd newest chart`; `2nd by version` in that order."""
    if order == "semver":
        standing = f"{ordinal(rank)} by version"
        return standing if kind == IMAGE else f"{noun(kind)}, {standing}"
    counted = "newest" if rank == 1 else f"{ordinal(rank)} newest"
    return counted if kind == IMAGE else f"{counted} {noun(kind)}"


def newest(rank: int, kept: int, app: str, kind: Kind, order: Order) -> str:
    """`2nd newest of 3 kept for app api`."""
    return f"{place(rank, kind, order)} of {kept} kept for app {app}"


def latest(few: int, app: str, kind: Kind) -> str:
    """`the latest of app api, of which only 2 images remain`."""
    return f"the latest of app {app}, of which only {plural(few, noun(kind))} remain"


def part_of_newest(kept: int, app: str) -> str:
    """A tagged child or referrer that lost its holder, but is as new as the newest images."""
    return f"has a tag of its own and is as new as the newest {kept} of app {app}"


def not_needed(standing: str, *, fits: bool) -> str:
    """A candidate that the target is reached without. `standing`: `place`, or `UNTAGGED`.

    `fits`: a breaker allows no more than the quota needs, and that is reached without it.
    """
    reached = "the quota is kept" if fits else "the target is reached"
    return f"{standing}, {reached} without it"


def deleted(
    standing: str,
    companions: int,
    freed_bytes: int,
    returning_bytes: int,
    shared_bytes: int,
    sharers: list[str],
) -> str:
    """`7th newest, frees 41.2 MB; 12.0 MB stay shared with acme/web:3`. `standing`: `place`, or `UNTAGGED`.

    `companions`: how many manifests go with it; their bytes are in the figures.
    """
    head = "untagged and needed by nothing" if standing == UNTAGGED else standing
    along = f" with {plural(companions, 'manifest')} that belong to it" if companions else ""
    sentence = f"{head}, frees {format_bytes(freed_bytes)}{along}"
    if returning_bytes:
        # They leave the account and are back with the build's push: no room is won by them.
        again = format_bytes(returning_bytes)
        sentence = f"{sentence}, of which {again} come again with the incoming build"
    if shared_bytes == 0:
        return sentence
    others = " and others" if len(sharers) > 1 else ""
    return f"{sentence}; {format_bytes(shared_bytes)} stay shared with {sharers[0]}{others}"


def goes_along(why: Why, holder: str, freed_bytes: int) -> str:
    """`child of acme/web:3, goes with it, frees 3.1 MB`."""
    bond = "child of" if why == "goes_with_index" else "refers to"
    return f"{bond} {holder}, goes with it, frees {format_bytes(freed_bytes)}"
