"""`registry-quota version`."""

from importlib.metadata import version

import typer

from cli.console import emit_json
from cli.options import AsJson


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version")(print_version)


def print_version(as_json: AsJson = False) -> None:
    """Print the version."""
    number = version("registry-quota")
    if as_json:
        emit_json({"version": number})
        return
    print(number)
