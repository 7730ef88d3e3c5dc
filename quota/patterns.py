"""Patterns of a policy that match nothing here: a rule that protects nothing is told in the plan. PURE."""

from collections.abc import Callable, Iterator, Sequence

from quota.plan import Block, PlanInput
from quota.policy import DEFAULT_POLICY, GLOB_FIELDS
from registry.globs import ImpossibleGlob, check_glob, glob_matcher


def pattern_notes(source: PlanInput) -> tuple[Block, ...]:
    """A sentence for each pattern that matches nothing in the workspace, or nothing anywhere."""
    policy, manifests = source.policy, source.manifests
    found = [
        *_notes("keep_tags", policy.keep_tags, lambda: (tag for m in manifests for tag in m.tags))
    ]
    if policy.cache_repositories != DEFAULT_POLICY.cache_repositories:
        repositories = {manifest.repository for manifest in manifests}
        found += _notes("cache_repositories", policy.cache_repositories, lambda: iter(repositories))
    return tuple(found)


def _notes(
    field: str, patterns: Sequence[str], names: Callable[[], Iterator[str]]
) -> Iterator[Block]:
    grammar = GLOB_FIELDS[field]
    for pattern in patterns:
        try:
            check_glob(pattern, grammar)
        except ImpossibleGlob as error:
            yield Block("pattern_matches_nothing", f"{field}: {error}")
            continue
        if not any(map(glob_matcher((pattern,)), names())):
            yield Block(
                "pattern_matches_nothing",
                f'{field}: "{pattern}" matches no {grammar.noun} of this workspace',
            )
