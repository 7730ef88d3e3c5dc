"""Links that lead nowhere are found; nothing else is complained of."""

import pytest

from tools.links import broken_links, slug

PAGE = """
# The page

[there](other.md) [a heading](other.md#what-it-does-not-do-yet) [here](#the-page) [again](#twice-1)
![picture](a.png) <img src="a.png"> [web](https://example.invalid/x) [mail](mailto:a@example.com)
`[code](nowhere.md)`

```md
[an example](nowhere.md)
# Not a heading
```

## Twice
## Twice
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "other.md").write_text("## What it does *not* do, yet\n")
    (tmp_path / "a.png").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "theirs.md").write_text("[x](gone.md)")
    return tmp_path


def test_links_that_lead_somewhere_are_fine(tree):
    assert broken_links(tree) == []


@pytest.mark.parametrize(
    "link",
    ["gone.md", "other.md#gone", "#gone", "#twice-2", "#not-a-heading", "../outside.md", "b.png"],
)
def test_a_link_that_leads_nowhere_is_named_with_its_page(tree, link):
    (tree / "docs.md").write_text(f"# Twice\n\n[a link]({link}) ![]({link})\n")
    assert broken_links(tree) == [f"docs.md: {link}"] * 2


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Getting started", "getting-started"),
        ("What is `present`?", "what-is-present"),
        ("1. First, of [all](x.md)", "1-first-of-all"),
        ("A_b - c", "a_b---c"),
    ],
)
def test_anchors_are_githubs(heading, anchor):
    assert slug(heading) == anchor
