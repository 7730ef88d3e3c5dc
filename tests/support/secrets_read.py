"""Which secrets a program reads, from its code: what its module imports, and which settings those name."""

import ast
from functools import cache
from pathlib import Path

from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "runtime" / "settings.py"
FOLDERS = {"idp": ROOT / "proto" / "idp", "registry_quota": ROOT / "client" / "registry_quota"}
SECRETS = {
    name: f"RQ_{name.upper()}"
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
}


def secrets_read(module: str, *, without: str | None = None) -> set[str]:
    """`RQ_…` of every secret that a module of ours reads, or any that it imports (but one)."""
    seen = {"" if without is None else without}
    waiting = [module]
    found: set[str] = set()
    methods = _of_methods()
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        tree = ast.parse(path.read_text())
        waiting += _imports(tree)
        if path != SETTINGS:
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    found |= methods.get(node.attr, set())
    return found


@cache
def _of_methods() -> dict[str, set[str]]:
    """A field or method of `Settings` → the secrets that who reads or calls it learns."""
    (settings,) = [
        node
        for node in ast.parse(SETTINGS.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == Settings.__name__
    ]
    reads = {
        method.name: {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
        for method in settings.body
        if isinstance(method, ast.FunctionDef)
    }
    found = {name: {variable} for name, variable in SECRETS.items()}
    for _round in reads:  # one calls another
        for method, named in reads.items():
            told = set[str]().union(*(found.get(name, set()) for name in named))
            if told:
                found[method] = told
    return found


def _imports(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _file(module: str) -> Path | None:
    room, _, rest = module.partition(".")
    path = FOLDERS.get(room, ROOT / room).joinpath(*filter(None, rest.split(".")))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
