"""`images WORKSPACE` goes on listing beside `images date`."""

import pytest
import typer
from typer.testing import CliRunner

from cli import images
from cli.console import CommandError


@pytest.fixture
def said(monkeypatch):
    """What the command line asks the API for."""
    asked: list[tuple[str, object]] = []

    async def load(workspace, app, tag, limit):
        asked.append(("list", (workspace, app, tag, limit)))
        return []

    async def date(workspace, body):
        asked.append(("date", (workspace, body)))
        return {"dated": 0, "images": []}

    monkeypatch.setattr(images, "_load", load)
    monkeypatch.setattr(images, "_date", date)
    app = typer.Typer()
    images.register(app)
    app.command("other")(lambda: None)

    def say(*words):
        asked.clear()
        result = CliRunner().invoke(app, ["images", *words])
        return asked[0] if asked else result

    return say


@pytest.mark.parametrize("words", [("acme",), ("list", "acme"), ("--json", "acme")])
def test_the_list_needs_no_name_of_its_own(said, words):
    assert said(*words) == ("list", ("acme", None, None, 100))


def test_options_of_the_list_stand_anywhere(said):
    assert said("--app", "api", "acme", "--limit", "5") == ("list", ("acme", "api", None, 5))
    assert said("list", "date") == ("list", ("date", None, None, 100))


def test_a_date_is_for_one_image_or_for_all_of_unknown_age(said):
    given = {"date": "2025-03-31T00:00:00Z", "image": "acme/api:1", "app": None}
    assert said("date", "acme", "acme/api:1", "--to", "2025-03-31") == ("date", ("acme", given))
    everything = {"date": "2025-03-31T12:00:00Z", "image": None, "app": "api"}
    words = ("date", "acme", "--all-unknown", "--app", "api", "--to", "2025-03-31T12:00:00Z")
    assert said(*words) == ("date", ("acme", everything))


@pytest.mark.parametrize(
    "words",
    [
        ("acme", "--to", "2025-03-31"),
        ("acme", "acme/api:1", "--all-unknown", "--to", "2025-03-31"),
        ("acme", "acme/api:1"),
    ],
)
def test_what_is_not_said_whole_is_refused(said, words):
    result = said("date", *words)
    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == 2
