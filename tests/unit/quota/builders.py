"""Workspaces for planner tests, written as a person would describe them.

Digests are the SHA-256 of a name. Times are days; "now" is day 100. Sizes are bytes.
"""

import hashlib
from dataclasses import replace
from typing import Any

from quota.plan import Decision, Manifest, Plan, PlanInput, StaleSource
from quota.planner import make_plan
from quota.policy import Policy
from registry.kinds import IMAGE

DAY_NS = 86_400 * 10**9
HOUR_NS = 3600 * 10**9
NOW_NS = 100 * DAY_NS
MB = 1024 * 1024


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def open_policy(**rules: Any) -> Policy:
    """No grace and no breaker, unless said otherwise."""
    return Policy(**{"untagged_grace_s": 0, "max_ratio_per_run_ppm": 10**6} | rules)


class Workspace:
    """Manifests by name; a tag `1` in repository `acme/api` is the manifest `api:1`, if not named."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.sizes: dict[bytes, int] = {}

    def add(
        self,
        name: str,
        *tags: str,
        app: str = "api",
        repository: str | None = None,
        day: float = 50,
        layers: dict[str, int] | None = None,
        children: tuple[str, ...] = (),
        subject: str | None = None,
        pulled_day: float | None = None,
        left_day: float | None = None,
        size: int = 0,
        **known: Any,
    ) -> Manifest:
        """A manifest; its document has no bytes unless `size` says so, to keep sums readable."""
        layers = layers or {}
        manifest = Manifest(
            repository=repository or f"acme/{app}",
            app=app,
            digest=digest(name),
            size=size,
            media_type="",
            blobs=tuple(digest(layer) for layer in layers),
            children=tuple(digest(child) for child in children),
            is_index=known.pop("is_index", bool(children)),
            subject=None if subject is None else digest(subject),
            subject_known=known.pop("subject_known", True),
            tags=tags,
            pushed_at_ns=int(day * DAY_NS),
            age_known=known.pop("age_known", True),
            last_pulled_at_ns=None if pulled_day is None else int(pulled_day * DAY_NS),
            unreferenced_since_ns=None if left_day is None else int(left_day * DAY_NS),
            size_known=known.pop("size_known", True),
            kind=known.pop("kind", IMAGE),
            **known,
        )
        self.sizes[manifest.digest] = size
        self.sizes.update({digest(layer): bytes_ for layer, bytes_ in layers.items()})
        key = name if name not in self.manifests else f"{name} in {manifest.repository}"
        self.manifests[key] = manifest
        return manifest

    def image(self, app: str, tag: str, day: float, size: int = MB, **more: Any) -> Manifest:
        """An image of one layer of its own, named `app:tag`."""
        name = f"{app}:{tag}"
        return self.add(name, tag, app=app, day=day, layers={f"layer of {name}": size}, **more)

    def series(self, app: str, count: int, *, first_day: float = 1, size: int = MB) -> None:
        """Images `app:1` … `app:count`, a day apart, each with a layer of its own."""
        for number in range(1, count + 1):
            self.image(app, str(number), first_day + number - 1, size)

    @property
    def usage(self) -> int:
        return recount(tuple(self.manifests.values()), self.sizes)

    def input(self, *, free: int | None = None, **changes: Any) -> PlanInput:
        """A reading in which `free` bytes have to go (by default: as many as can)."""
        usage = self.usage
        quota = 10 * usage + 10
        target = 0 if free is None else usage - free
        source = PlanInput(
            workspace="acme",
            now_ns=NOW_NS,
            policy=changes.pop("policy", open_policy()),
            quota_bytes=quota,
            usage_bytes=usage,
            # What is reserved moves the target to the wanted place.
            reserved_bytes=7 * usage + 7 - target,
            incoming_bytes=0,
            manifests=tuple(self.manifests.values()),
            sizes=self.sizes,
        )
        return replace(source, **changes)

    def plan(self, *, free: int | None = None, **changes: Any) -> Plan:
        return make_plan(self.input(free=free, **changes))

    def name(self, manifest: Manifest) -> str:
        return next(name for name, known in self.manifests.items() if known is manifest)

    def deleted(self, plan: Plan) -> list[str]:
        """Names in the order of deletion."""
        return [self.name(manifest) for manifest in plan.steps]

    def decision(self, plan: Plan, name: str) -> Decision:
        return next(d for d in plan.decisions if d.manifest is self.manifests[name])

    def why(self, plan: Plan, name: str) -> str:
        return self.decision(plan, name).why

    def sentence(self, plan: Plan, name: str) -> str:
        return self.decision(plan, name).sentence


def recount(manifests: tuple[Manifest, ...], sizes: dict[bytes, int]) -> int:
    """What counts: the distinct digests of the manifests that exist."""
    held = {manifest.digest for manifest in manifests}
    held |= {blob for manifest in manifests for blob in manifest.blobs}
    return sum(sizes[digest_] for digest_ in held)


def stale(source: str, repository: str | None = None) -> tuple[StaleSource, ...]:
    return (StaleSource(source, repository),)
