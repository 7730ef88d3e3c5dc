"""Links of the pages that lead to files and headings of this tree. `python -m tools.links`, a part of `make check`.

Offline: addresses of the web are not asked.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

ROOT: Final = Path(__file__).resolve().parents[1]
_LEFT_OUT: Final = {"node_modules", "dist", "build"}
_FENCE: Final = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|(?:href|src)=\"([^\"]+)\"")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_ELSEWHERE: Final = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)


def broken_links(root: Path) -> list[str]:
    """A line for each link of a page below `root` that leads nowhere: `page: link`."""
    return [
        f"{page.relative_to(root)}: {link}"
        for page in _pages(root)
        for link in _links(page.read_text())
        if not _leads_somewhere(root, page, link)
    ]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _pages(root: Path) -> Iterator[Path]:
    for page in sorted(root.rglob("*.md")):
        folders = page.relative_to(root).parts[:-1]
        if not any(name.startswith(".") or name in _LEFT_OUT for name in folders):
            yield page


def _links(text: str) -> list[str]:
    prose = _CODE.sub("", _FENCE.sub("", text))
    return [found[1] or found[2] for found in _LINK.finditer(prose)]


def _leads_somewhere(root: Path, page: Path, link: str) -> bool:
    if _ELSEWHERE.match(link):
        return True
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(root):
        return False
    return not anchor or target.suffix != ".md" or anchor in _anchors(target)


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Of the headings; one that comes again is counted on."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text())):
        name = slug(heading)
        count = seen[name] = seen.get(name, -1) + 1
        found.add(name if count == 0 else f"{name}-{count}")
    return frozenset(found)


def main() -> None:
    """Exit code 1 when a link leads nowhere."""
    broken = broken_links(ROOT)
    for line in broken:
        print(line, file=sys.stderr)  # noqa: T201
    if broken:
        sys.exit(f"{len(broken)} links lead nowhere")


if __name__ == "__main__":
    main()
