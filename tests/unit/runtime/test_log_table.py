"""docs/logs.md names every line that our programs write."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ROOMS = (
    "webhook_receiver",
    "consumer",
    "quota",
    "ledger",
    "registry",
    "runtime",
    "alerts",
    "temporal_worker",
)
LEVELS = {"debug", "info", "warning", "error", "exception"}


def constants(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def writes(function: ast.expr) -> bool:
    """Whether a call of this writes a line: `log.info`, or one of two such."""
    if isinstance(function, ast.IfExp):
        return writes(function.body)
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id == "log"
    )


def written() -> Iterator[tuple[str, str]]:
    """(event, file) of every line in the code."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                first = node.args[0]
                if isinstance(node.func, ast.Name) and node.func.id in {"Outcomes", "Sparingly"}:
                    first = node.args[-1]
                elif not writes(node.func):
                    continue
                for event in constants(first):
                    yield event, str(path.relative_to(ROOT))


def documented() -> set[str]:
    rows = [
        line for line in (ROOT / "docs/logs.md").read_text().splitlines() if line.startswith("| `")
    ]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_line_is_in_the_table():
    found = list(written())
    assert len(found) > 50
    assert {(event, file) for event, file in found if event not in documented()} == set()


def test_the_table_names_no_line_that_nobody_writes():
    code = "".join(path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    assert {name for name in documented() if f'"{name}"' not in code} == set()
