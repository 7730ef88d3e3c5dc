"""docs/README.md leads to every page."""

import re

from tests.support.pages import ROOT


def test_no_page_is_forgotten():
    index = (ROOT / "docs/README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    pages |= {f"reference/{path.name}" for path in (ROOT / "docs/reference").iterdir()}
    assert pages <= linked
