"""docs/README.md leads to every page."""

import re

from tests.support.pages import ROOT


def test_no_page_is_forgotten():
    index = (ROOT / "docs/README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    pages |= {f"reference/{path.name}" for path in (ROOT / "docs/reference").iterdir()}
    assert pages <= linked


def test_no_decision_is_forgotten_and_each_is_called_as_it_calls_itself():
    folder = ROOT / "docs/decisions"
    listed = re.findall(
        r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE
    )
    assert [name for _, name, _ in listed] == sorted(path.name for path in folder.glob("0*.md"))
    for number, name, title in listed:
        heading = (folder / name).read_text().splitlines()[0]
        assert name.startswith(number)
        assert heading == f"# {int(number)}. {title}"
