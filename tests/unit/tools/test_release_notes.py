"""Release notes are the changelog's own words, and the version has one source."""

import re
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from tools.release_notes import NoNotesError, project_version, release_notes, versions

ROOT = Path(__file__).parents[3]
CHANGELOG = """# Changelog

All that a user can see.

## [Unreleased]

### Added

- What comes.

## [1.1.0] - 2027-01-02

### Fixed

- What was wrong ([why](docs/a.md)).

## [1.0.0] - 2026-12-01

- The first.

[1.1.0]: https://example.com/compare/1.0.0...1.1.0
[1.0.0]: https://example.com/1.0.0
"""


def test_notes_are_what_stands_under_the_versions_heading():
    assert release_notes(CHANGELOG, "1.1.0") == (
        "### Fixed\n\n- What was wrong ([why](docs/a.md)).\n"
    )
    assert release_notes(CHANGELOG, "1.0.0") == "- The first.\n"
    assert release_notes(CHANGELOG, "Unreleased") == "### Added\n\n- What comes.\n"


@pytest.mark.parametrize("version", ["1.0", "2.0.0", ""])
def test_a_version_without_notes_is_refused_by_name(version):
    with pytest.raises(NoNotesError, match=re.escape("it has Unreleased, 1.1.0, 1.0.0")):
        release_notes(CHANGELOG, version)


def test_the_project_has_notes_for_what_comes_next():
    assert release_notes((ROOT / "CHANGELOG.md").read_text(), "Unreleased")


def test_the_newest_release_in_the_changelog_is_the_projects_version():
    released = [v for v in versions((ROOT / "CHANGELOG.md").read_text()) if v != "Unreleased"]
    own = project_version((ROOT / "pyproject.toml").read_text())
    assert released[:1] in ([], [own])


def test_the_version_stands_in_pyproject_and_is_written_nowhere_else():
    own = project_version((ROOT / "pyproject.toml").read_text())
    assert installed("registry-quota") == own
    files = [ROOT / name for name in ("Dockerfile", "docker-compose.yml", "Makefile")]
    rooms = ("cli", "client", "consumer", "devstack", "ledger", "quota", "registry", "runtime")
    for room in rooms:
        files += (ROOT / room).rglob("*.py")
    assert [path for path in files if f'"{own}"' in path.read_text()] == []
