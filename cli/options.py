"""Arguments and options that several commands have, and what a shell's completion offers for them."""

import asyncio
import contextlib
import logging
from typing import Annotated, Any, Final

import typer

from cli.console import CommandError
from runtime.settings import SettingsError

_COMPLETION_SECONDS: Final = 1.5
"""A person waits for it with a finger on the key."""
_OFFERED: Final = 200


def workspace_names(incomplete: str) -> list[str]:
    """Names of workspaces that begin so; none when the API does not tell them at once."""
    logging.disable(logging.CRITICAL)  # it would be printed into the line that is being typed
    with contextlib.suppress(CommandError, SettingsError, TimeoutError, OSError):
        return asyncio.run(_names(incomplete))
    return []


async def _names(incomplete: str) -> list[str]:
    from cli.client import api_client

    names: list[str] = []
    async with asyncio.timeout(_COMPLETION_SECONDS), api_client() as api:
        async for item in api.items("/v1/workspaces"):
            if item["workspace"].startswith(incomplete):
                names.append(item["workspace"])
                if len(names) == _OFFERED:
                    break
    return names


def _workspace_option(text: str) -> Any:
    return typer.Option("--workspace", "-w", help=text, autocompletion=workspace_names)


WorkspaceName = Annotated[
    str, typer.Argument(help="The workspace's name.", autocompletion=workspace_names)
]
OnlyWorkspace = Annotated[str | None, _workspace_option("Only this workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document for programs.")]
