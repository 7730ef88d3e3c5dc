"""`make release-notes`: what the changelog says of one version, for the page of its release."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HEADING = "## ["
_UNRELEASED = "Unreleased"


class NoNotesError(Exception):
    """The changelog says nothing of that version."""


def project_version(project: str) -> str:
    """The version in the text of a pyproject.toml: its one source."""
    version: str = tomllib.loads(project)["project"]["version"]
    return version


def versions(changelog: str) -> list[str]:
    """Versions that have a heading, as they stand there: the newest first."""
    return [
        line.removeprefix(_HEADING).split("]", 1)[0]
        for line in changelog.splitlines()
        if line.startswith(_HEADING)
    ]


def release_notes(changelog: str, version: str) -> str:
    """What stands under a version's heading, as Markdown. Raises NoNotesError."""
    told: list[str] = []
    inside = False
    for line in changelog.splitlines():
        if line.startswith(_HEADING):
            inside = line.startswith(f"{_HEADING}{version}]")
        elif inside and not _is_link(line):
            told.append(line)
    notes = "\n".join(told).strip()
    if not notes:
        raise NoNotesError(
            f"CHANGELOG.md says nothing of {version}; it has {', '.join(versions(changelog))}"
        )
    return notes + "\n"


def _is_link(line: str) -> bool:
    """Whether it is one of the list `[1.0.0]: https://…` at the end."""
    return line.startswith("[") and "]: " in line


def main() -> None:
    """Print the notes of the version that is given, else of the project's own, else what is unreleased."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    given = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else None
    own = project_version((ROOT / "pyproject.toml").read_text())
    version = given or (own if own in versions(changelog) else _UNRELEASED)
    try:
        sys.stdout.write(release_notes(changelog, version))
    except NoNotesError as error:
        raise SystemExit(f"release-notes: {error}") from error


if __name__ == "__main__":
    main()
