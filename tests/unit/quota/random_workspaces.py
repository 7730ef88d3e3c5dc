"""Hypothesis strategies for small workspaces in which every rule has something to do."""

from typing import Any

from hypothesis import strategies as st

from quota.plan import Manifest, PlanInput, StaleSource
from quota.policy import Policy
from registry.kinds import CACHE, IMAGE, Kind
from tests.unit.quota.builders import DAY_NS, HOUR_NS, NOW_NS, digest, recount

REPOSITORIES = [("acme/api", "api"), ("acme/web", "web"), ("acme/api-mirror", "api")]
NAMES = [f"m{number}" for number in range(8)]
BLOBS = [f"b{number}" for number in range(5)]
KINDS = [*[IMAGE] * 8, CACHE, Kind("chart"), Kind("sbom"), Kind("artifact", "application/x"), None]
TAGS = ["1", "keep-me", "latest", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


def seldom(value: Any, usual: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 19 + [value])


def in_one_of(number: int) -> st.SearchStrategy[bool]:
    return st.integers(1, number).map(lambda drawn: drawn == number)


@st.composite
def contents(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """What a digest decides: what the manifest refers to. Mostly older ones, as in real life."""
    others = NAMES if draw(in_one_of(20)) else NAMES[:number]
    is_index = bool(others) and draw(in_one_of(3))
    some = st.lists(st.sampled_from(others or NAMES), max_size=3, unique=True)
    children = draw(some) if is_index else []
    refers = bool(others) and draw(in_one_of(8))
    subject = draw(st.sampled_from(others)) if refers else None
    blobs = [] if is_index else draw(st.lists(st.sampled_from(BLOBS), max_size=3, unique=True))
    return {
        "digest": digest(NAMES[number]),
        "size": draw(st.integers(0, 2)),
        "media_type": "",
        "blobs": tuple(map(digest, blobs)),
        "children": tuple(map(digest, children)),
        "is_index": is_index,
        "subject": None if subject is None else digest(subject),
        "subject_known": draw(seldom(value=False, usual=True)),
        "size_known": draw(seldom(value=False, usual=True)),
        "kind": draw(st.sampled_from(KINDS)),
    }


@st.composite
def manifests(draw: st.DrawFn) -> tuple[Manifest, ...]:
    found = []
    free_tags = {repository: list(TAGS) for repository, _ in REPOSITORIES}
    used: dict[str, set[str]] = {repository: set() for repository, _ in REPOSITORIES}
    for number in range(draw(st.integers(0, len(NAMES)))):
        content = draw(contents(number))
        places = [REPOSITORIES[draw(seldom(1, 0))]]
        if draw(in_one_of(6)):
            places.append(REPOSITORIES[2])
        for repository, app in places:
            tags = [free_tags[repository].pop(0) for _ in range(draw(st.sampled_from([1, 1, 0])))]
            if draw(in_one_of(8)):
                # What another tag names, mostly; a name of its own where that is missing.
                free = [tag for tag in TAGS if f"{tag}-sbom" not in used[repository]]
                tags.append(f"{draw(st.sampled_from(free[:4] or ['x']))}-sbom")
                used[repository].update(tags)
            if draw(in_one_of(12)):
                tags.append(f"sha256-{digest(draw(st.sampled_from(NAMES))).hex()}.sig")
            pushed = NOW_NS - draw(st.integers(-1, 6)) * DAY_NS - draw(st.integers(0, 1)) * HOUR_NS
            found.append(
                Manifest(
                    repository=repository,
                    app=app,
                    tags=tuple(tags),
                    pushed_at_ns=pushed,
                    age_known=draw(seldom(value=False, usual=True)),
                    latest_ns=draw(st.sampled_from([None, None, pushed, pushed + 2 * DAY_NS])),
                    surely_ns=draw(st.sampled_from([None, None, 0, pushed - 2 * DAY_NS])),
                    last_push_ns=draw(seldom(NOW_NS - 30 * 60 * 10**9, None)),
                    last_pulled_at_ns=draw(seldom(NOW_NS - DAY_NS, None)),
                    unreferenced_since_ns=draw(seldom(NOW_NS - HOUR_NS, None)),
                    **content,
                )
            )
    return tuple(draw(st.permutations(found)))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    keep_newest = draw(st.sampled_from([1, 2, 2, 3]))
    return Policy(
        keep_newest=keep_newest,
        keep_at_least=draw(st.integers(1, keep_newest)),
        min_age_s=draw(seldom(2 * 86_400, 0)),
        keep_tags=draw(st.sampled_from([(), (), (), ("never", "keep-*")])),
        keep_pulled_days=draw(st.sampled_from([None, 3])),
        untagged_grace_s=draw(st.sampled_from([0, 3600, 2 * 86_400])),
        max_ratio_per_run_ppm=10**6,
    )


@st.composite
def inputs(draw: st.DrawFn) -> PlanInput:
    """A reading in which some bytes have to go, sometimes more than can."""
    found = draw(manifests())
    sizes = {digest(name): draw(st.integers(0, 8)) for name in BLOBS}
    sizes.update({manifest.digest: manifest.size for manifest in found})
    usage = recount(found, sizes)
    target = usage - draw(st.integers(0, usage + 1))
    quota = 10 * usage + 10
    digests = st.sampled_from([digest(name) for name in NAMES])
    layers = st.sampled_from([digest(name) for name in BLOBS])
    return PlanInput(
        workspace="acme",
        now_ns=NOW_NS,
        policy=draw(policies()),
        quota_bytes=quota,
        usage_bytes=usage,
        reserved_bytes=7 * usage + 7 - target,
        incoming_bytes=0,
        manifests=found,
        sizes=sizes,
        incoming_digests=frozenset({draw(layers)}) if draw(in_one_of(4)) else frozenset(),
        in_use=frozenset({draw(digests)}) if draw(in_one_of(5)) else frozenset(),
        stale_sources=draw(seldom((StaleSource("k8s", "acme/web"),), ())),
        failed=draw(seldom(frozenset(m.key for m in found[:1]), frozenset())),
        not_found=frozenset(m.key for m in found if draw(in_one_of(10)) and m.tags),
        unreadable={m.key: "404" for m in found[: draw(st.sampled_from([0, 0, 0, 1, 2]))]},
        spared={m.key: ("doubted", "?") for m in found[draw(st.sampled_from([9, 9, 9, 5])) :]},
    )
