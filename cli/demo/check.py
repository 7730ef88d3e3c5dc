"""Does the registry agree with the ledger? Given what both said, and nothing else. PURE.

Every function takes what was answered and returns a verdict: what was promised, and every
difference from it. No difference: it held.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from quota.policy import DEFAULT_POLICY, PPM
from quota.words import format_bytes
from runtime.figures import percent

ManifestName = tuple[str, str]
"""(repository, digest)"""
TagName = tuple[str, str]
"""(repository, tag)"""
Event = Mapping[str, Any]
Document = Mapping[str, Any]
"""JSON of the API."""

_TYPE: Final = "io.registryquota.{}.v1"
_Name = TypeVar("_Name", bound=tuple[str, ...])


@dataclass(frozen=True)
class Stored:
    """A manifest that was pulled: bytes of its document, digests of its config and layers."""

    size: int
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What the registry gave out, checked against its digests. Sizes are those of what came.

    `faults` are sentences about what should have come and did not.
    """

    tags: Mapping[TagName, str]
    manifests: Mapping[ManifestName, Stored]
    blobs: Mapping[str, int]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What the API says of the workspace."""

    usage_bytes: int
    tags: Mapping[TagName, str]
    manifests: frozenset[ManifestName]

    @classmethod
    def of(cls, usage: Document, images: Iterable[Document]) -> "Ledger":
        """From `GET …/usage` and all items of `GET …/images`."""
        images = list(images)
        return cls(
            usage_bytes=usage["usage_bytes"],
            tags={
                (item["repository"], tag): item["digest"] for item in images for tag in item["tags"]
            },
            manifests=frozenset(manifest_name(item) for item in images),
        )


@dataclass(frozen=True)
class Verdict:
    """A promise, and how what was seen differs from it."""

    promise: str
    differences: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether it was kept."""
        return not self.differences


def manifest_name(item: Document) -> ManifestName:
    """Of an image in a document of the API."""
    return item["repository"], item["digest"]


def recount(pulled: Pulled) -> int:
    """Bytes of the distinct digests (manifests, configs, layers), each once, as they came."""
    sizes = {digest: stored.size for (_, digest), stored in pulled.manifests.items()}
    for stored in pulled.manifests.values():
        sizes |= {digest: pulled.blobs.get(digest, 0) for digest in stored.blobs}
    return sum(sizes.values())


def pulls(pulled: Pulled) -> Verdict:
    """Every surviving tag can be pulled."""
    came = sum(stored.size for stored in pulled.manifests.values()) + sum(pulled.blobs.values())
    return Verdict(
        f"all {len(pulled.tags)} surviving tags were pulled, by tag and by digest: "
        f"{len(pulled.manifests)} manifests, {len(pulled.blobs)} blobs, {format_bytes(came)}, sha256 right",
        pulled.faults,
    )


def tags(pulled: Pulled, ledger: Ledger) -> Verdict:
    """Tags name the same digests on both sides."""
    differing = [
        f"{_joined(name)} is {ledger.tags[name]} in the ledger, {digest} in the registry"
        for name, digest in pulled.tags.items()
        if name in ledger.tags and ledger.tags[name] != digest
    ]
    return Verdict(
        f"the ledger's {len(ledger.tags)} tags are the registry's, digest for digest",
        (*_one_sided(ledger.tags, pulled.tags), *differing),
    )


def manifests(pulled: Pulled, ledger: Ledger) -> Verdict:
    """The same manifests exist on both sides, untagged ones and children of indexes, too."""
    return Verdict(
        f"the ledger's {len(ledger.manifests)} manifests are the registry's",
        _one_sided(ledger.manifests, pulled.manifests),
    )


def usage(pulled: Pulled, ledger: Ledger) -> Verdict:
    """The ledger's usage is what a recount finds."""
    counted = recount(pulled)
    drift = ledger.usage_bytes - counted
    difference = f"{ledger.usage_bytes:,} bytes in the ledger, {counted:,} recounted: {drift:+,}"
    return Verdict(
        f"a recount from the registry finds the ledger's usage: {ledger.usage_bytes:,} bytes",
        (difference,) if drift else (),
    )


def deleted(pulled: Pulled, hook: Document) -> Verdict:
    """What was deleted cannot be pulled any more."""
    gone = [manifest_name(image) for image in hook["cleanup"]["images"]]
    return Verdict(
        f"the {len(gone)} deleted manifests answer 404",
        tuple(
            f"{_joined(name)} is still in the registry" for name in gone if name in pulled.manifests
        ),
    )


def room(hook: Document) -> Verdict:
    """The hook let the build proceed, with the target reached."""
    total = hook["usage_bytes"] + hook["reserved_bytes"] + hook["incoming_bytes"]
    differences = []
    if (hook["decision"], hook["reason"]) != ("proceed", "cleaned_to_target"):
        differences.append(f"the hook said {hook['decision']} ({hook['reason']})")
    if total * PPM > hook["quota_bytes"] * DEFAULT_POLICY.target_ppm:
        differences.append(f"{format_bytes(total)} are more than the target")
    differences += [f"{item['digest']}: {item['reason']}" for item in hook["cleanup"]["failed"]]
    return Verdict(
        f"the build may proceed: with it {percent(total, hook['quota_bytes'])} of the quota are "
        f"used, the target is {percent(DEFAULT_POLICY.target_ppm, PPM)}",
        tuple(differences),
    )


def plan_kept(plan: Document, hook: Document) -> Verdict:
    """What was deleted and freed is what the plan had said."""
    cleanup = hook["cleanup"]
    planned = {manifest_name(image) for image in plan["images"] if image["action"] == "delete"}
    done = {manifest_name(image) for image in cleanup["images"]}
    fallen = hook["usage_bytes_before"] - hook["usage_bytes"]
    figures = {
        "the plan promised": plan["freed_bytes"],
        "the images' own figures add up to": sum(i["freed_bytes"] for i in cleanup["images"]),
        "usage fell by": fallen,
    }
    return Verdict(
        f"cleanup did what its plan said: {len(done)} manifests, {cleanup['freed_bytes']:,} bytes freed",
        (
            *(f"{_joined(name)} was to go and stayed" for name in sorted(planned - done)),
            *(f"{_joined(name)} went without a plan" for name in sorted(done - planned)),
            *(
                f"the hook says {cleanup['freed_bytes']:,} bytes freed, {whose} {count:,}"
                for whose, count in figures.items()
                if count != cleanup["freed_bytes"]
            ),
        ),
    )


def images_announced(
    events: Iterable[Event], pushed: Collection[ManifestName], hook: Document
) -> Verdict:
    """Each manifest that came or went was announced."""
    events = list(events)
    differences = []
    for kind, expected in (
        ("image.recorded", set(pushed)),
        ("image.removed", {manifest_name(image) for image in hook["cleanup"]["images"]}),
    ):
        announced = {manifest_name(event["data"]) for event in _of_type(events, kind)}
        differences += [f"{kind} of {_joined(name)} is missing" for name in expected - announced]
        differences += [f"{kind} of {_joined(name)} is wrong" for name in announced - expected]
    return Verdict(
        f"every manifest that came ({len(pushed)}) or went ({len(hook['cleanup']['images'])}) "
        "was announced on Kafka",
        tuple(differences),
    )


def levels_announced(events: Iterable[Event], level_now: str) -> Verdict:
    """The level went up while images were pushed, and down again with the cleanup."""
    steps = [event["data"] for event in _of_type(events, "usage.level_changed")]
    path = ["ok", *(step["level"] for step in steps)]
    differences = [
        f"a step from {step['previous_level']} follows the level {before}"
        for before, step in zip(path, steps, strict=False)
        if step["previous_level"] != before
    ]
    if not {"warning", "critical"} & set(path):
        differences.append("no warning was announced while the workspace filled up")
    if path[-1] != level_now:
        differences.append(
            f"the last level announced is {path[-1]}, the workspace's is {level_now}"
        )
    if level_now != "ok":
        differences.append(f"the level is {level_now} after the cleanup")
    return Verdict(f"the level's changes were announced: {' → '.join(path)}", tuple(differences))


def cleanup_announced(events: Iterable[Event], hook: Document) -> Verdict:
    """One cleanup.finished event tells what the hook told."""
    told = [event["data"] for event in _of_type(events, "cleanup.finished")]
    expected = [(hook["cleanup"]["run_id"], hook["cleanup"]["freed_bytes"])]
    seen = [(data["run_id"], data["freed_bytes"]) for data in told]
    return Verdict(
        "cleanup.finished was announced with the run's figures",
        () if seen == expected else (f"(run, bytes) expected: {expected}, seen: {seen}",),
    )


def _of_type(events: Iterable[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == _TYPE.format(kind)]


def _one_sided(ledger: Collection[_Name], registry: Collection[_Name]) -> tuple[str, ...]:
    return (
        *(f"{_joined(name)} is only in the ledger" for name in ledger if name not in registry),
        *(f"{_joined(name)} is only in the registry" for name in registry if name not in ledger),
    )


def _joined(name: tuple[str, ...]) -> str:
    """`acme/web:1.0` or `acme/web@sha256:…`."""
    repository, reference = name
    return f"{repository}{'@' if reference.startswith('sha256:') else ':'}{reference}"
