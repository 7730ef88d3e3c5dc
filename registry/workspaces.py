"""Which workspace a repository belongs to (pure): one rule, read from `RQ_WORKSPACE_PATTERN`."""

import re
from typing import Final, NamedTuple

NO_WORKSPACE: Final = "_"
"""Workspace of the repositories that the pattern does not match. No repository can be named so."""


class Placement(NamedTuple):
    """The workspace that a repository counts for, and the app it is there."""

    workspace: str
    app: str


class WorkspaceRule:
    """Splits repository names by a regular expression with the groups `workspace` and `app`."""

    def __init__(self, pattern: str) -> None:
        """Compile the pattern. Raises ValueError when it is none or lacks a group."""
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"the workspace pattern is not a regular expression: {error}"
            ) from error
        if not {"workspace", "app"} <= compiled.groupindex.keys():
            raise ValueError(
                "the workspace pattern needs the groups (?P<workspace>…) and (?P<app>…)"
            )
        self._match = compiled.match

    def split(self, repository: str) -> Placement:
        """Placement of a repository; without a match `_` and the full name (contract, "Settings")."""
        match = self._match(repository)
        if match is None:
            return Placement(NO_WORKSPACE, repository)
        workspace, app = match["workspace"], match["app"]
        if not workspace or not app:
            return Placement(NO_WORKSPACE, repository)
        return Placement(workspace, app)

    def matches(self, repository: str) -> bool:
        """Whether the pattern finds a workspace for a repository."""
        return self.split(repository).workspace != NO_WORKSPACE
