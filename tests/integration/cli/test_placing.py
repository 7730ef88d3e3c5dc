"""Another `RQ_WORKSPACE_PATTERN` than the ledger was made by: told, and moved by one command."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import structlog

from cli.doctor import postgres
from ledger.mapping import Mapper
from ledger.placing import placing, tell_placing
from quota.levels import level
from registry.workspaces import Placement, WorkspaceRule
from runtime.settings import Settings
from tests.support import ledgers
from tests.support.ledger_images import pushed as image_pushed

TWO_PARTS = "^(?P<workspace>[^/]+/[^/]+)/(?P<app>.+)$"
USUAL = ledgers.PATTERN
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
async def ledger(pool):
    """`acme/shop/api` and `acme/shop/web` by the usual pattern, `acme/blog/api` mapped by hand."""
    names = ("acme/shop/api", "acme/shop/web", "acme/blog/api")
    await ledgers.recorder(pool).record(
        [image_pushed(name, "1", [("shared", 100), (name, 10)]) for name in names], now=NOW
    )
    by_hand = Mapper(pool, rule=WorkspaceRule(USUAL), default_quota_bytes=10**9, level_of=level)
    await by_hand.map("default", "acme/blog/api", Placement("writers", "api"), now=NOW)
    return pool


def place(database_url, *arguments, pattern=TWO_PARTS):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RQ_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "workspaces", "place", *arguments],
        env=clean | {"RQ_DATABASE_URL": database_url, "RQ_WORKSPACE_PATTERN": pattern},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def places(pool):
    rows = await pool.fetch(
        "SELECT r.name, w.name AS workspace, r.app FROM repositories r"
        " JOIN workspaces w ON w.id = r.workspace_id"
    )
    return {row["name"]: Placement(row["workspace"], row["app"]) for row in rows}


async def test_the_pattern_that_the_ledger_was_made_by_is_told_nowhere(ledger, database_url):
    async with ledger.acquire() as connection:
        assert (await placing(connection, WorkspaceRule(USUAL))).text == ""
    with structlog.testing.capture_logs() as logs:
        await tell_placing(ledger, WorkspaceRule(USUAL))
    assert logs == []
    ran = place(database_url, pattern=USUAL)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "0 repositories moved" in ran.stdout


async def test_another_pattern_is_told_at_the_start_and_by_doctor(ledger, database_url):
    with structlog.testing.capture_logs() as logs:
        await tell_placing(ledger, WorkspaceRule(TWO_PARTS))
    (line,) = logs
    *_, finding = await postgres.check(
        Settings.model_validate({"database_url": database_url, "workspace_pattern": TWO_PARTS})
    )
    assert (finding.check, finding.state) == ("workspaces", "warning")
    for text, remedy in ((line["reason"], line["action"]), (finding.found, finding.mend)):
        assert "2 of 2 repositories" in text
        assert "acme/shop/api (counts for acme, now it would for acme/shop, app api)" in text
        assert "acme/blog/api" not in text, "a hand placed it, no pattern"
        assert "workspaces place" in remedy


async def test_what_another_pattern_puts_elsewhere_moves_with_what_it_stores(ledger, database_url):
    before = await places(ledger)
    refused = place(database_url)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert await places(ledger) == before, "nobody agreed"
    ran = place(database_url, "--yes", "--json")
    assert ran.returncode == 0, ran
    document = json.loads(ran.stdout)
    assert [item["repository"] for item in document["moved"]] == ["acme/shop/api", "acme/shop/web"]
    assert document["left"] == []
    assert await places(ledger) == {
        "acme/shop/api": Placement("acme/shop", "api"),
        "acme/shop/web": Placement("acme/shop", "web"),
        "acme/blog/api": Placement("writers", "api"),
    }
    usage = await ledgers.usage(ledger)
    assert usage == await ledgers.recount(ledger)
    assert usage.keys() == {"acme/shop", "writers"}
    async with ledger.acquire() as connection:
        assert (await placing(connection, WorkspaceRule(TWO_PARTS))).elsewhere == ()
        # It is the pattern's again: a third pattern tells of it.
        assert len((await placing(connection, WorkspaceRule(USUAL))).elsewhere) == 2
