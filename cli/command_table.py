"""Every command with its arguments and options, from the code: `docs/reference/commands.md`."""

import enum
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

_OWN_HELP = "help"


class Parameter(NamedTuple):
    """An argument or an option as a person writes it."""

    spelling: str
    meaning: str
    default: str


class Command(NamedTuple):
    """A command that does something (a group does not)."""

    name: str
    usage: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def has_json(self) -> bool:
        """Whether it can answer for programs."""
        return any(item.spelling == "`--json`" for item in self.parameters)


def commands() -> list[Command]:
    """All of them, by name."""
    import typer.main

    from cli.main import app

    return sorted(_walk(typer.main.get_command(app), ["registry-quota"]))


def _walk(command: Any, path: list[str]) -> Iterator[Command]:
    usual = getattr(command, "usual", None)
    for name, inner in getattr(command, "commands", {}).items():
        # What a group does without a word of its own is shown as the group.
        yield from _walk(inner, path if name == usual else [*path, name])
    if not hasattr(command, "commands"):
        shown = [item for item in command.params if item.name != _OWN_HELP and not item.hidden]
        arguments = [_argument(item) for item in shown if item.param_type_name == "argument"]
        usage = " ".join(
            [*path, *(["[OPTIONS]"] if len(shown) > len(arguments) else []), *arguments]
        )
        text = "\n\n".join(
            " ".join(part.split()) for part in (command.help or "").strip().split("\n\n")
        )
        yield Command(" ".join(path[1:]), usage, text, tuple(map(_parameter, shown)))


def _parameter(item: Any) -> Parameter:
    if item.param_type_name == "argument":
        spelling = f"`{_argument(item)}`"
    else:
        value = "" if item.is_flag else f" {_value(item)}"
        spelling = ", ".join(f"`{name}{value}`" for name in item.opts)
    default = ""
    if item.required:
        default = "required"
    elif item.default not in (None, False, ""):
        default = f"`{item.default}`"
    return Parameter(spelling, _cell(item.help or ""), default)


def _argument(item: Any) -> str:
    name = item.metavar or item.name.upper()
    many = "..." if item.nargs == -1 and not name.endswith("...") else ""
    return f"{name}{many}" if item.required else f"[{name}{many}]"


def _value(item: Any) -> str:
    """What stands behind an option: its choices, else a word for its kind."""
    if item.metavar:
        return str(item.metavar)
    kind = item.type_descriptor.annotation
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(choice.value) for choice in kind)
    word = {"str": "TEXT", "int": "N", "float": "N", "UUID": "ID"}[kind.__name__]
    if item.min is not None and item.max is not None:
        return f"{item.min}..{item.max}"
    return word


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def document() -> str:
    """`docs/reference/commands.md`."""
    return f"""\
# Commands

`registry-quota COMMAND --help` says the same. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a guard.

- Tables are for people; in a pipe they have no frame, and a line a row. `--json` prints one JSON document and nothing else on standard output (`events tail`: one a line). Progress and complaints go to standard error.
- The API is found by `RQ_API_URL` and `RQ_API_TOKEN`; what is unset comes from `.run/env` of a `make run` in this folder (`RQ_RUN_DIR`). Commands that go to Kafka, Postgres or the registry themselves read the same [settings](settings.md) as the processes.
- `registry-quota --install-completion` makes bash, zsh and fish complete commands, options, choices and the names of workspaces. Without a guess which shell it is: `_REGISTRY_QUOTA_COMPLETE=source_zsh registry-quota` prints what to source (`source_bash`, `source_fish`).

This page is written by `make reference` and compared with the code by a test.

{chr(10).join(_section(item) for item in commands())}"""


def _section(item: Command) -> str:
    rows = "\n".join(
        f"| {row.spelling.replace('|', chr(92) + '|')} | {row.meaning} | {row.default} |"
        for row in item.parameters
    )
    table = f"\n\n| | | default |\n|---|---|---|\n{rows}" if rows else ""
    return f"## {item.name}\n\n```\n{item.usage}\n```\n\n{item.help}{table}\n"


if __name__ == "__main__":
    print(document(), end="")
