"""`registry-quota version`."""

from importlib.metadata import version

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version", help="Print the version.")(print_version)


def print_version() -> None:
    """Print the version."""
    print(version("registry-quota"))
