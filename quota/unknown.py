"""What a name that nobody knows here is answered with: a warning that says so, and near names.

It is taken all the same where it may come to be known later (a workspace before its first image, a
digest before its push); a typo must not look like that. Only names that the caller may see are told.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from ledger import names, reading
from ledger.reading import WorkspaceView
from quota.near import did_you_mean
from quota.words import plural
from registry.refs import ImageName
from runtime.aside import LARGE_BYTES, aside
from runtime.postgres import Connection

_NEVER_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._/:\[\]-]")
"""What no name of a repository has, so that no pattern finds it there."""


async def _meant(name: str, known: Collection[str]) -> str:
    """Beside the event loop: a name of 255 characters takes some tens of milliseconds to compare."""
    return await aside(LARGE_BYTES if known else 0, did_you_mean, name, known)


async def workspace(
    connection: Connection,
    name: str,
    view: WorkspaceView | None,
    among: Iterable[str] | None,
) -> list[str]:
    """A warning when a workspace has had no image and nobody has configured it.

    `view`: what the ledger has of it; `among`: the workspaces that the caller may hear of, None: all.
    """
    if view is not None and view.visible:
        return []
    return await told_workspace(name, await names.workspaces_like(connection, name, among))


async def told_workspace(name: str, known: Collection[str]) -> list[str]:
    """The warning about a workspace that nobody knows, beside those that are known."""
    meant = await _meant(name, known)
    why = "nothing was ever pushed to it, and nobody has set anything for it"
    if _NEVER_IN_A_NAME.search(name):
        why += "; no repository's name has such characters: only a mapping can lead to it"
    return [f"unknown_workspace: {name} is unknown here: {why}{meant}"]


async def near_workspaces(connection: Connection, name: str, among: Iterable[str] | None) -> str:
    """Near names of workspaces, as the end of a sentence; or nothing. `among` as above."""
    return await _meant(name, await names.workspaces_like(connection, name, among))


async def app(connection: Connection, view: WorkspaceView, name: str) -> list[str]:
    """A warning when nothing was ever pushed to an app of a workspace that is known."""
    return await told_app(view, name, await names.apps_like(connection, view.id, name))


async def told_app(view: WorkspaceView, name: str, known: Collection[str]) -> list[str]:
    """The same, beside the apps that are known, as the ledger lists them: the very name comes first."""
    if list(known)[:1] == [name]:
        return []
    meant = await _meant(name, known)
    why = "nothing was ever pushed to such an app"
    return [f"unknown_app: {name} is unknown in {view.name}: {why}{meant}"]


async def tag(
    connection: Connection, view: WorkspaceView, name: str, among_app: str | None
) -> list[str]:
    """A warning for a tag that names nothing now in a workspace that is known, or in one of its apps."""
    known = await names.tags_like(connection, view.id, name, app=among_app)
    meant = await _meant(name, known)
    where = view.name if among_app is None else f"app {among_app} of {view.name}"
    return [f"unknown_tag: {name} is unknown in {where}: no image that is there has it{meant}"]


async def image(connection: Connection, view: WorkspaceView, name: ImageName) -> str:
    """Near names for an image that a workspace has not: `; did you mean acme/api:1.2?`, or nothing."""
    if name.repository is None:
        return ""
    known = await names.repositories_like(connection, view.id, name.repository)
    if name.repository not in known:
        meant = await _meant(name.repository, known)
        return f"; {name.repository} is unknown in it{meant}"
    if name.tag is None:
        return ""
    tags = await names.tags_like(connection, view.id, name.tag, repository=name.repository)
    return await _meant(name.tag, tags)


async def repository(
    connection: Connection, registry: str, name: str, view: WorkspaceView | None
) -> list[str]:
    """A warning when nothing was ever heard of a repository. `view`: where it would count as things are."""
    if await names.knows_repository(connection, registry, name):
        return []
    known = [] if view is None else await names.repositories_like(connection, view.id, name)
    meant = await _meant(name, known)
    return [
        f"unknown_repository: {name} is unknown here: nothing was ever pushed to it{meant}",
    ]


async def digests(
    connection: Connection, name: str, view: WorkspaceView | None, wanted: set[bytes]
) -> tuple[int, list[str]]:
    """How many of the digests a workspace holds now, and a warning when it holds none of them."""
    held = {} if view is None else await reading.held(connection, view.id, wanted)
    known = sum(entry.refs > 0 for entry in held.values())
    if known or not wanted:
        return known, []
    counted = plural(len(wanted), "digest")
    are = "is" if len(wanted) == 1 else "are"
    why = "nothing that is there is protected by this, only what arrives later"
    return 0, [f"unknown_digests: 0 of {counted} {are} known in {name}: {why}"]
