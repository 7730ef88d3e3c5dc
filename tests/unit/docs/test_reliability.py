"""docs/reliability.md has every promise, with figures and with the tests that prove it."""

import re
from pathlib import Path

import pytest

from tests.support.pages import ROOT
from tests.support.promises import BEGIN, END, PROMISES

TABLE = (ROOT / "docs/reliability.md").read_text().partition(BEGIN)[2].partition(END)[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("|")
][2:]


def proved_by(promise: str) -> set[str]:
    """Names of the files with a test of a promise."""
    mark = f'pytest.mark.promise("{promise}")'
    files = (ROOT / "tests").rglob("test_*.py")
    return {path.stem for path in files if mark in path.read_text()}


def test_the_table_has_every_promise():
    assert [row[0] for row in ROWS] == list(PROMISES.values())


@pytest.mark.parametrize(
    ("promise", "row"), list(zip(PROMISES, ROWS, strict=False)), ids=list(PROMISES)[: len(ROWS)]
)
def test_a_promise_has_figures_a_verdict_and_the_tests_that_prove_it(promise, row):
    """Whoever adds a promise, or a test of one, lets `make faults` measure it."""
    _sentence, figures, verdict, links = row
    assert re.search(r"\d", figures)
    assert verdict.startswith("holds")
    named = {Path(link).stem for link in re.findall(r"\]\(([^)]+)\)", links)}
    assert named == proved_by(promise) != set()
