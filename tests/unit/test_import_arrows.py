"""The house: which room may import which. Read from the code's own imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Room → rooms it may import. The arrows follow the data (README, "The rooms"): receiver and consumer
# come first, what they stand on last.
ARROWS: dict[str, set[str]] = {
    "webhook_receiver": {"registry", "runtime"},
    "consumer": {"quota", "ledger", "registry", "runtime"},
    "quota": {"ledger", "registry", "runtime", "idp"},
    "ledger": {"registry", "runtime"},
    "registry": {"runtime"},
    "runtime": set(),
    "migrations": {"ledger", "runtime"},
    "alerts": {"runtime"},
    "temporal_worker": {"runtime", "idp"},
    "devstack": {"runtime"},
    "idp": set(),
    "registry_quota": set(),
    "cli": {
        "webhook_receiver",
        "consumer",
        "quota",
        "ledger",
        "registry",
        "runtime",
        "migrations",
        "devstack",
        "registry_quota",
        "alerts",
        "temporal_worker",
    },
}

# Modules that stay free of I/O and of clocks of their own, however their room grows.
PURE = [
    "alerts/render.py",
    "consumer/translate.py",
    "ledger/announce.py",
    "ledger/contents.py",
    "ledger/counting.py",
    "ledger/facts.py",
    "ledger/fold.py",
    "ledger/packing.py",
    "ledger/settlement.py",
    "quota/decision.py",
    "quota/explain.py",
    "quota/graph.py",
    "quota/health.py",
    "quota/incoming.py",
    "quota/absence.py",
    "quota/kinds.py",
    "quota/levels.py",
    "quota/patterns.py",
    "quota/plan.py",
    "quota/planner.py",
    "quota/policy.py",
    "quota/protections.py",
    "quota/ranking.py",
    "quota/reasons.py",
    "quota/usage.py",
    "quota/words.py",
    "registry/following.py",
    "registry/globs.py",
    "registry/kinds.py",
    "registry/manifests.py",
    "registry/models.py",
    "registry/names.py",
    "registry/notifications.py",
    "registry/references.py",
    "webhook_receiver/messages.py",
]
IMPURE_IMPORTS = {"aiohttp", "aiokafka", "asyncio", "asyncpg", "random", "socket", "time", "os"}

FOLDERS = {"idp": "proto/idp", "registry_quota": "client/registry_quota"}
"""Rooms whose folder is not at the top."""


def imports(path: Path) -> set[str]:
    """Full dotted names of what a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files(room: str) -> list[Path]:
    return sorted((ROOT / FOLDERS.get(room, room)).rglob("*.py"))


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_what_its_arrows_allow(room):
    assert files(room), f"{room}/ is empty"
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if (target := name.split(".")[0]) in ARROWS and target not in ARROWS[room] | {room}
    }
    assert not wrong


def test_the_ledger_takes_only_models_and_names_from_the_registry_room():
    allowed = {
        f"registry.{name}"
        for name in ("models", "names", "workspaces", "media_types", "kinds", "following")
    }
    used = {
        name for path in files("ledger") for name in imports(path) if name.startswith("registry")
    }
    assert used <= allowed


def test_migrations_take_only_tables_and_roles_from_the_ledger():
    used = {name for path in files("migrations") for name in imports(path)}
    assert {name for name in used if name.split(".")[0] == "ledger"} <= {
        "ledger.tables",
        "ledger.roles",
    }


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_nothing_that_touches_the_world(module):
    assert not {name.split(".")[0] for name in imports(ROOT / module)} & IMPURE_IMPORTS


@pytest.mark.parametrize("room", ARROWS)
def test_sql_stands_only_in_the_ledger(room):
    if room in {"ledger", "migrations"}:
        return
    verbs = ("SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ")
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lstrip().startswith(verbs)
    }
    # The embedded stack creates its database before any ledger exists, and asks whether it answers.
    assert not {place for place in found if not place.startswith("devstack/")}
