"""The demo's fixed workspace as if nobody had used it: emptied in the registry, and in the account."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from cli.client import ApiClient, ApiError, workspace_path
from cli.console import CommandError
from registry.client import RegistryClient
from registry.media_types import manifest_kind
from registry.names import parse_digest

_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1
_NOT_FOUND: Final = 404
Document = Mapping[str, Any]


async def empty(api: ApiClient, registry: RegistryClient, workspace: str) -> int:
    """Delete every image of a workspace, its reservations, leases and settings; how many manifests went.

    Raises CommandError when the account does not follow, DeletesDisabled.
    """
    path = workspace_path(workspace)
    try:
        images = [item async for item in api.items(f"{path}/images")]
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return 0  # nobody has used it
        raise
    # Indexes first: what they hold is nobody's then.
    for item in sorted(images, key=lambda item: manifest_kind(item["media_type"]) != "index"):
        await registry.delete_manifest(item["repository"], parse_digest(item["digest"]))
    for kind, name in (("reservations", "id"), ("leases", "source")):
        listed = api.items(workspace_path(workspace, kind))
        for held in [item async for item in listed]:
            await api.call("DELETE", workspace_path(workspace, kind, held[name]))
    await _removed(api, workspace)
    return len(images)


async def _removed(api: ApiClient, workspace: str) -> None:
    """Remove the workspace, once the registry's notifications have emptied its account."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            await api.call("DELETE", workspace_path(workspace))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the workspace {workspace} could not be emptied: {error}"
                ) from error
        else:
            return
        await asyncio.sleep(_LOOK_SECONDS)
