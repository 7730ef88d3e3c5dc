"""docs/getting-started.md as a stranger follows it: its blocks, in one shell, beside a running system."""

import asyncio
import os
import re
import signal

import pytest

from tests.support.pages import ROOT, Block, blocks

PAGE = "docs/getting-started.md"
BLOCKS = [item for item in blocks(PAGE) if item.language == "sh"]
TO_RUN = [item for item in BLOCKS if not item.note]
ELSEWHERE = [item for item in BLOCKS if item.note]


def script(to_run):
    """One shell script that says before each block which one begins."""
    return "\n".join(f"printf '\\n--- line {item.line}\\n'\n{item.text}" for item in to_run)


def outputs(printed):
    """A block's last line → what the block printed."""
    parts = re.split(r"^--- line (\d+)\n", printed, flags=re.MULTILINE)[1:]
    by_line = dict(zip(parts[::2], parts[1::2], strict=True))
    return {item.text.splitlines()[-1]: by_line[str(item.line)] for item in TO_RUN}


async def test_every_block_does_what_the_page_says(system, tmp_path):
    # The folder of a clone in which `make run` runs.
    for name in (".venv", "callers"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".run").symlink_to(system.stack.run_dir.root)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RQ_", "ORBIT_"))
    }
    (tmp_path / "page.sh").write_text(script(TO_RUN))
    process = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "page.sh"),
        cwd=tmp_path,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = printed.decode()
    assert process.returncode == 0, said
    by_block = outputs(said)
    # Other tests may have pushed to this stack before.
    assert re.search("nothing failed|all fine", by_block["registry-quota doctor"])
    assert "1.8" in by_block["registry-quota images acme"]
    assert "delete" in by_block["registry-quota plan acme"]
    (hook,) = [text for line, text in by_block.items() if "callers/shell" in line]
    assert "proceed" in hook
    assert "cleaned" in hook
    assert "acme" in by_block["registry-quota verify"]
    tags = {tag async for tag in system.registry.list_tags("acme/api")}
    assert {"1.1", "1.6", "1.7", "1.8"} <= tags
    assert tags < {f"1.{number}" for number in range(1, 9)}


@pytest.mark.parametrize("item", ELSEWHERE, ids=lambda item: item.note)
def test_a_block_that_is_not_run_here_is_tried_elsewhere(item: Block):
    if item.note == "in a terminal of its own":
        # Run by tests/integration/devstack/test_stack.py; the fixture `system` starts the same.
        assert item.text == "make run\n"
    elif item.note == "needs docker":
        # Run by tests/containers/test_getting_started.py, where an engine answers.
        services = (ROOT / "docker-compose.yml").read_text()
        named = re.findall(r"docker compose exec (\w+)", item.text)
        assert all(f"\n  {name}:\n" in services for name in named)
    else:
        path = item.note.removeprefix("tried by ")
        assert (ROOT / path).is_file()
