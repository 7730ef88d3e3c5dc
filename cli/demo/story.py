"""What happens in the demo, one method a step, in order."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cli.client import ApiClient, workspace_path
from cli.console import CommandError
from cli.demo import check, show
from cli.demo.check import Ledger, ManifestName, TagName, Verdict
from cli.demo.events import Event
from cli.demo.images import ANNOUNCED_BYTES, QUOTA_BYTES, RELEASES, Builder, Release
from cli.demo.pull import pull_everything
from cli.demo.push import Pusher
from quota.policy import DEFAULT_POLICY, PPM
from quota.words import format_bytes
from registry.client import RegistryClient
from registry.names import format_digest

_RECORD_SECONDS: Final = 20.0
"""How long a push may take until the ledger shows it; usually it is a few milliseconds."""
_EVENT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02

_TRIGGER: Final = f"{DEFAULT_POLICY.trigger_ppm * 100 // PPM} %"
_TARGET: Final = f"{DEFAULT_POLICY.target_ppm * 100 // PPM} %"
Document = dict[str, Any]


@dataclass
class Story:
    """One run of the demo in a workspace of its own."""

    workspace: str
    api: ApiClient
    registry: RegistryClient
    pusher: Pusher
    events: list[Event]
    builder: Builder
    _pushed: set[ManifestName] = field(default_factory=set)
    _tags: set[TagName] = field(default_factory=set)

    async def tell(self) -> list[Verdict]:
        """All of it. Returns the verdicts; raises CommandError when a step cannot be done."""
        await self._open()
        await self._fill()
        images = await self._images()
        names = show.names_of(images)
        self._show_ledger(images, names)
        next_build = self.builder.next_release()
        plan = await self._plan(next_build, names)
        hook = await self._call_hook(next_build)
        await self._show_outcome(plan, hook, names)
        await self._build(next_build)
        return await self._verify(plan, hook)

    async def _open(self) -> None:
        show.heading(
            f"1. A fresh workspace, {self.workspace}, with a quota of {format_bytes(QUOTA_BYTES)}"
        )
        await self.api.call(
            "PATCH",
            workspace_path(self.workspace),
            body={"quota_bytes": QUOTA_BYTES, "policy": {"untagged_grace": 0}},
            tell=False,
        )
        show.note(
            f"Cleanup begins at {_TRIGGER} and ends at {_TARGET}. Untagged manifests usually stay "
            "for an hour; here they may go at once (policy untagged_grace: 0)."
        )

    async def _fill(self) -> None:
        show.heading(f"2. Three apps push releases until {_TRIGGER} of the quota are used")
        show.note(f"Pushed with {self.pusher.name}. Each line is printed when the ledger has it.")
        with show.pushing(RELEASES) as bar:
            for release in self.builder.releases():
                usage = await self._push(release)
                bar.advance(bar.task_ids[0])
                if usage["usage_bytes"] * PPM >= QUOTA_BYTES * DEFAULT_POLICY.trigger_ppm:
                    return
        raise CommandError(f"the pushes ended before {_TRIGGER} of the quota were used")

    async def _push(self, release: Release) -> Document:
        """Push, and wait until the ledger shows it. Returns the usage then."""
        repository = f"{self.workspace}/{release.app}"
        digest = format_digest(release.content.digest)
        await self.pusher.push(repository, release)
        self._pushed |= {(repository, format_digest(m.digest)) for m in release.manifests}

        async def recorded() -> bool:
            shown = [await self._tagged(release.app, tag) for tag in release.tags]
            return all(item is not None and item["digest"] == digest for item in shown)

        await _until(
            recorded,
            _RECORD_SECONDS,
            f"the ledger did not show {release.name} ({digest}) within {_RECORD_SECONDS:.0f} s; "
            "does the registry send its notifications to the receiver?",
        )
        usage: Document = await self.api.call("GET", workspace_path(self.workspace, "usage"))
        remarks = [f"{len(release.images)} platforms"] if len(release.images) > 1 else []
        remarks += [f"{tag} moved" for tag in release.tags if (repository, tag) in self._tags]
        self._tags |= {(repository, tag) for tag in release.tags}
        show.pushed(release.name, usage, ", ".join(remarks))
        return usage

    async def _tagged(self, app: str, tag: str) -> Document | None:
        page = await self.api.call(
            "GET",
            workspace_path(self.workspace, "images"),
            query={"app": app, "tag": tag},
            tell=False,
        )
        return next(iter(page["items"]), None)

    async def _images(self) -> list[Document]:
        page = await self.api.call(
            "GET", workspace_path(self.workspace, "images"), query={"limit": 1000}
        )
        images: list[Document] = page["items"]
        return images

    def _show_ledger(self, images: list[Document], names: show.Names) -> None:
        show.heading("3. The ledger")
        show.ledger(images, names)
        apart = sum(item["size_bytes"] for item in images if item["tags"])
        show.note(
            f"Added up one by one the tagged images are {format_bytes(apart)}. What they share is "
            "stored, and counts, once."
        )

    async def _plan(self, build: Release, names: show.Names) -> Document:
        show.heading("4. What would have to go for the next build (a dry run)")
        await self.api.call(
            "POST",
            workspace_path(self.workspace, "reservations"),
            body={"build_id": self._build_id, "app": build.app, "bytes": ANNOUNCED_BYTES},
        )
        plan: Document = await self.api.call(
            "POST", workspace_path(self.workspace, "cleanup-plans"), body={}
        )
        show.note(
            f"The next build of {build.app} brings {format_bytes(ANNOUNCED_BYTES)}, which are "
            f"reserved. The plan frees {format_bytes(plan['freed_bytes'])} of "
            f"{format_bytes(plan['usage_bytes'])}:"
        )
        show.plan(plan, names)
        return plan

    @property
    def _build_id(self) -> str:
        return f"{self.workspace}-build-1"

    async def _call_hook(self, build: Release) -> Document:
        show.heading("5. The build asks the pre-build hook")
        body = {
            "workspace": self.workspace,
            "app": build.app,
            "build_id": self._build_id,
            "incoming_bytes": ANNOUNCED_BYTES,
        }
        show.note("As any build system would (the variables stand in .run/env):")
        show.command(
            'curl "$RQ_API_URL/v1/hooks/pre-build" -H "Authorization: Bearer $RQ_API_TOKEN" '
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        began = time.monotonic()
        hook: Document = await self.api.call("POST", "/v1/hooks/pre-build", body=body)
        show.note(
            f"It answers after {time.monotonic() - began:.2f} s: {hook['decision']} ({hook['reason']}). "
            f"{hook['message']}"
        )
        await self._hear(lambda: [check.cleanup_announced(self.events, hook)])
        return hook

    async def _show_outcome(self, plan: Document, hook: Document, names: show.Names) -> None:
        show.heading("6. What was deleted, what was kept, and why")
        show.deleted(hook, names)
        show.kept(await self._images(), plan, names)
        show.note(
            f"Before: {hook['usage_bytes_before']:,} bytes. After: {hook['usage_bytes']:,} bytes. "
            f"Freed: {hook['cleanup']['freed_bytes']:,} bytes ({format_bytes(hook['cleanup']['freed_bytes'])})."
        )

    async def _build(self, build: Release) -> None:
        show.heading("7. The build pushes into the room that was made")
        await self._push(build)

    async def _verify(self, plan: Document, hook: Document) -> list[Verdict]:
        show.heading("8. Does the registry agree?")
        repositories = {repository for repository, _ in self._pushed}
        pulled = await pull_everything(self.registry, repositories, self._pushed)
        usage = await self.api.call("GET", workspace_path(self.workspace, "usage"))
        ledger = Ledger.of(usage, await self._images())
        announced = await self._hear(
            lambda: [
                check.images_announced(self.events, self._pushed, hook),
                check.levels_announced(self.events, usage["level"]),
                check.cleanup_announced(self.events, hook),
            ]
        )
        verdicts = [
            check.room(hook),
            check.plan_kept(plan, hook),
            check.deleted(pulled, hook),
            check.pulls(pulled),
            check.tags(pulled, ledger),
            check.manifests(pulled, ledger),
            check.usage(pulled, ledger),
            *announced,
        ]
        show.verdicts(verdicts)
        return verdicts

    async def _hear(self, judge: Callable[[], list[Verdict]]) -> list[Verdict]:
        """The verdicts on the events, which may come a moment after what they announce."""

        async def held() -> bool:
            return all(verdict.held for verdict in judge())

        with suppress(CommandError):  # the verdicts say what is missing
            await _until(held, _EVENT_SECONDS, "")
        return judge()


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float, otherwise: str) -> None:
    """Return when the condition holds. Raises CommandError with `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise CommandError(otherwise)
        await asyncio.sleep(_POLL_SECONDS)
