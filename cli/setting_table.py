"""Every setting with its default and meaning, from the code: `docs/reference/settings.md`."""

import ast
import inspect
import itertools
from typing import Any, NamedTuple

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from runtime.settings import Settings


class Setting(NamedTuple):
    """A variable as a person sets it. `aliases` are other names for it."""

    variable: str
    aliases: tuple[str, ...]
    default: str
    bounds: str
    meaning: str


def settings() -> list[Setting]:
    """All of them, in the order of the code."""
    meanings = _meanings()
    return [
        _setting(name, field, meanings.get(name, ""))
        for name, field in Settings.model_fields.items()
    ]


def _meanings() -> dict[str, str]:
    """The text below each field.

    Pydantic can read it, too (`use_attribute_docstrings`), but does so whenever the settings are imported:
    a tenth of what a command needs for its start.
    """
    parts = ast.walk(ast.parse(inspect.getsource(Settings)))
    found = next(part for part in parts if isinstance(part, ast.ClassDef))
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(found.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _setting(name: str, field: FieldInfo, meaning: str) -> Setting:
    variable = f"RQ_{name.upper()}"
    choices = field.validation_alias
    names = [str(item) for item in choices.choices] if isinstance(choices, AliasChoices) else []
    return Setting(
        variable=variable,
        aliases=tuple(item for item in names if item != variable),
        default=_default(field),
        bounds=_bounds(field),
        meaning=" ".join(meaning.split()),
    )


def _default(field: FieldInfo) -> str:
    if "SecretStr" in str(field.annotation):
        return "secret"
    default: Any = field.default
    if default is None or default in ((), ""):
        return ""
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "from {:g}", "gt": "above {:g}", "le": "to {:g}", "lt": "below {:g}"}
    told = [
        form.format(getattr(rule, name)) if abs(getattr(rule, name)) < 10**6 else ""
        for rule in field.metadata
        for name, form in words.items()
        if hasattr(rule, name)
    ]
    return " ".join(text for text in told if text)


def document() -> str:
    """`docs/reference/settings.md`."""
    rows = "\n".join(
        f"| `{item.variable}`{''.join(f', `{name}`' for name in item.aliases)} "
        f"| {item.default.replace('|', chr(92) + '|')} | {item.bounds} "
        f"| {item.meaning.replace('|', chr(92) + '|')} |"
        for item in settings()
    )
    return f"""\
# Settings

Environment variables, or files of these names in the folder `RQ_SECRETS_DIR`. Durations are seconds, sizes are bytes. What is wrong refuses to start with a line that names it, and so does a secret that a process needs and that is unset or empty. `registry-quota doctor` prints those in force, secrets masked, and what does not fit together.

`make run` and `make demo` also read `RQ_RUN_DIR`, `RQ_CACHE_DIR`, `RQ_KAFKA_PORT`, `RQ_REGISTRY_PORT`, `RQ_REGISTRY_BINARY` and `RQ_EXTERNAL_REGISTRY_URL`.

This table is written by `make reference` and compared with the code by a test.

| variable | default | bounds | |
|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    print(document(), end="")
