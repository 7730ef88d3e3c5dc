"""Every `registry-quota …` that a page says can be said: the command, its options, its choices."""

import re
import shlex

import pytest
import typer.main

from cli.main import app
from tests.support.pages import ROOT

PAGES = sorted(
    path
    for folder in ("", "docs", "docs/decisions", "callers", "deploy/helm/registry-quota")
    for path in (ROOT / folder).glob("*.md")
    if path.name != "CHANGELOG.md"  # tells what was
)
_SAID = re.compile(r"(?<![\w/.:_-])registry-quota ([a-z-][^`\n;|&)#“”]*)")
_PLACEHOLDER = re.compile(r"^(?:[A-Z]+|…|\.\.\.|\[.*\])$")


def said(page):
    """What stands behind `registry-quota`, in blocks and between backticks."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    code = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    code += re.findall(r"`([^`\n]+)`", prose)
    for line in "\n".join(code).splitlines():
        words = line.lstrip()
        if words.startswith(("kubectl ", "helm ")):
            words = words.partition(" -- ")[2]  # before it a release's or a namespace's name
        for found in _SAID.findall(words):
            # A table in a block: what stands behind two spaces is said about the command.
            yield re.split(r" {2,}|<", found)[0].strip()


CASES = sorted(
    {(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in said(page)}
)


def test_pages_do_say_commands():
    assert len(CASES) > 60


@pytest.mark.parametrize(("page", "words"), CASES, ids=lambda value: value)
def test_what_a_page_tells_to_run_can_be_run(page, words):
    command, arguments = typer.main.get_command(app), shlex.split(words)
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if "|" in name or _PLACEHOLDER.match(name):
            return
        usual = getattr(command, "usual", None)
        assert name in command.commands or usual, f"{page}: there is no command {name}"
        command = command.commands[name if name in command.commands else usual]
    known = {option for item in command.params for option in item.opts} | {"--help"}
    known |= {"--install-completion", "--show-completion"}
    options = [item.partition("=")[0] for item in arguments if item.startswith("-") and item != "-"]
    assert set(options) <= known, page
