"""The pages of docs/, for tests that try what they say."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- *(?P<note>[^\n]*?) *-->\n+ *)?```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `note` is the comment above it, which a reader does not see."""

    language: str
    note: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page (its path below the project), in order."""
    text = (ROOT / page).read_text()
    return [
        Block(
            found["language"],
            found["note"] or "",
            textwrap.dedent(found["text"]),
            text.count("\n", 0, found.start()) + 1,
        )
        for found in _FENCE.finditer(text)
    ]


def block(page: str, note: str) -> str:
    """The text of the one block under this comment."""
    (found,) = [item.text for item in blocks(page) if item.note == note]
    return found
