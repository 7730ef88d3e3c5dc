"""Completion, by asking for it as the shells do; the shells that are here are asked themselves."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "registry-quota"


@pytest.fixture
def ask(system):
    """`await ask("bash", "-c", script)`: its standard output, with the system's environment."""

    async def run(*arguments, **environment):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RQ_", "ORBIT_"))}
        inherited["PATH"] = f"{PROGRAM.parent}{os.pathsep}{inherited['PATH']}"
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env=inherited | {"RQ_RUN_DIR": str(system.stack.run_dir.root)} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert err == b"", err.decode()
        return out.decode()

    return run


async def test_every_shell_gets_commands_choices_and_real_names(system, ask):
    await system.call("PATCH", "/v1/workspaces/completed", {"quota_bytes": 1000})
    protocols = {
        "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)},
        "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
        "fish": lambda line: {
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    }
    for shell, asked in protocols.items():
        for typed, offered in (
            ("dead", "dead-letters"),
            ("plan comp", "completed"),
            ("serve tem", "temporal-worker"),
        ):
            answer = await ask(
                str(PROGRAM),
                _REGISTRY_QUOTA_COMPLETE=f"complete_{shell}",
                **asked(f"registry-quota {typed}"),
            )
            assert offered in answer, (shell, typed, answer)


async def test_without_an_api_completion_is_silent_and_quick(ask):
    answer = await ask(
        str(PROGRAM),
        _REGISTRY_QUOTA_COMPLETE="complete_bash",
        COMP_WORDS="registry-quota plan a",
        COMP_CWORD="2",
        RQ_API_URL="http://127.0.0.1:1",
    )
    assert answer.strip() == ""


SESSIONS = {
    "bash": """
eval "$(_REGISTRY_QUOTA_COMPLETE=source_bash registry-quota)"
COMP_WORDS=(registry-quota work); COMP_CWORD=1
"$(complete -p registry-quota | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" registry-quota
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
compdef() { registered=$1 }
_arguments() { print -r -- "$@" }
eval "$(_REGISTRY_QUOTA_COMPLETE=source_zsh registry-quota)"
words=(registry-quota work); CURRENT=2
$registered
""",
    "fish": """
_REGISTRY_QUOTA_COMPLETE=source_fish registry-quota | source
complete -C 'registry-quota work'
""",
}


@pytest.mark.parametrize("shell", SESSIONS)
async def test_the_script_that_is_installed_works_in_the_shell_itself(ask, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    norc = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    assert "workspaces" in await ask(shell, *norc, "-c", SESSIONS[shell])
