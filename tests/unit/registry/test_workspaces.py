import pytest

from registry.workspaces import WorkspaceRule
from runtime.settings import Settings

USUAL = WorkspaceRule(Settings().workspace_pattern)


@pytest.mark.parametrize(
    ("repository", "workspace", "app"),
    [
        ("acme/web", "acme", "web"),
        ("acme/team/web", "acme", "team/web"),
        ("acme/tags/list", "acme", "tags/list"),
        ("registry.example:5000/acme/web", "registry.example:5000", "acme/web"),
        ("busybox", "_", "busybox"),
    ],
)
def test_the_usual_rule_takes_the_first_component(repository, workspace, app):
    assert USUAL.split(repository) == (workspace, app)


def test_a_rule_of_ones_own():
    rule = WorkspaceRule(r"^tenants/(?P<workspace>[^/]+)/(?P<app>.+)$")
    assert rule.split("tenants/acme/web") == ("acme", "web")
    assert rule.split("acme/web") == ("_", "acme/web")


def test_a_group_that_took_no_part_is_no_match():
    rule = WorkspaceRule(r"^(?:(?P<workspace>[a-z]+)-)?(?P<app>.*)$")
    assert rule.split("acme-web") == ("acme", "web")
    assert rule.split("acme/web") == ("_", "acme/web")
    assert rule.split("acme-") == ("_", "acme-")


@pytest.mark.parametrize(
    "pattern", ["(", "", "^(?P<workspace>.+)$", "^(?P<app>.+)$", "^(.+)/(.+)$"]
)
def test_a_pattern_that_cannot_split_is_refused(pattern):
    with pytest.raises(ValueError, match="workspace pattern"):
        WorkspaceRule(pattern)
