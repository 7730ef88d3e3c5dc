"""Where repositories count, beside where `RQ_WORKSPACE_PATTERN` would put them now.

A repository is placed once, when it is first heard of: another pattern later is for new ones alone, and
what stood here before goes on counting where it did until somebody moves it.
"""

from typing import Final

import msgspec

from registry.workspaces import Placement, WorkspaceRule
from runtime.logs import get_logger
from runtime.postgres import Connection, Pool

log = get_logger(__name__)

_PREFETCH: Final = 1000
_EXAMPLES: Final = 3

# Those mapped by hand need no pattern.
BY_PATTERN = """
SELECT r.registry, r.name, w.name AS workspace, r.app
FROM repositories r JOIN workspaces w ON w.id = r.workspace_id
WHERE NOT r.mapped ORDER BY r.registry, r.name
"""


class Elsewhere(msgspec.Struct, frozen=True):
    """A repository that the pattern would put elsewhere than it is."""

    registry: str
    repository: str
    now: Placement
    by_pattern: Placement


class Placing(msgspec.Struct, frozen=True):
    """How the repositories that nobody mapped by hand are placed, beside the pattern."""

    repositories: int
    matched: int
    """That the pattern matches."""
    first: str | None
    """The first of them by name."""
    elsewhere: tuple[Elsewhere, ...]

    @property
    def text(self) -> str:
        """What differs, and how to make it one; empty when nothing does."""
        if not self.elsewhere:
            return ""
        some = ", ".join(
            f"{item.repository} (counts for {item.now.workspace}, now it would for"
            f" {item.by_pattern.workspace}, app {item.by_pattern.app})"
            for item in self.elsewhere[:_EXAMPLES]
        )
        more = len(self.elsewhere) - _EXAMPLES
        return (
            f"{len(self.elsewhere)} of {self.repositories} repositories were placed by another"
            f" RQ_WORKSPACE_PATTERN than this one: {some}{f' and {more} more' if more > 0 else ''}"
        )


REMEDY: Final = (
    "run `registry-quota workspaces place`, which shows them and moves them with what they store; or set"
    " the former pattern again, in every process"
)


async def placing(connection: Connection, rule: WorkspaceRule) -> Placing:
    """Compare every repository with what the pattern says."""
    count = matched = 0
    first: str | None = None
    elsewhere: list[Elsewhere] = []
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(BY_PATTERN, prefetch=_PREFETCH):
            by_pattern = rule.split(row["name"])
            count += 1
            matched += rule.matches(row["name"])
            first = first or row["name"]
            now = Placement(row["workspace"], row["app"])
            if now != by_pattern:
                elsewhere.append(Elsewhere(row["registry"], row["name"], now, by_pattern))
    return Placing(count, matched, first, tuple(elsewhere))


async def tell_placing(pool: Pool, rule: WorkspaceRule) -> None:
    """Have the log say it when a process starts with another pattern than the ledger was made by."""
    async with pool.acquire() as connection:
        found = await placing(connection, rule)
    if found.elsewhere:
        log.warning("placed_by_another_pattern", reason=found.text, action=REMEDY)
