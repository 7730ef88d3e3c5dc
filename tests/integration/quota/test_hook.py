"""The hook's promises that a stranger's eyes found broken once."""

import asyncio
import time
from typing import Any

import pytest

from ledger import workspaces
from ledger.workspaces import Settings
from quota.builds import PreBuild
from quota.hook import PreBuildHook
from quota.metrics import QuotaMetrics
from quota.runs import PlannedBuild, Runs
from registry.push import build_image, build_index, build_layer
from runtime.postgres import open_statement_pool
from tests.integration.quota.conftest import utc_now
from tests.support import ledgers
from tests.support.artifacts import build_signature


async def fill(service, count, size=100_000, repository="acme/api"):
    return [await service.push(repository, f"v{number}", size) for number in range(count)]


async def test_a_live_tag_on_an_image_that_the_ledger_calls_untagged_saves_it(service):
    """Two clients moved a tag at once: the last event named the other digest."""
    await service.configure("acme", 1_000_000, untagged_grace=0)
    await fill(service, 7)
    first = await service.push("acme/api", "raced", 100_000)
    second = build_image([build_layer("second", 100_000)])
    await service.push_built("acme/api", "raced", second)
    # In the registry the first one won.
    await service.registry.put_manifest(
        "acme/api", "raced", first.manifest.content, first.manifest.media_type
    )
    answer = await service.ask("acme")
    assert answer.outcome.images
    state = await service.registry.tag_digest("acme/api", "raced")
    assert state.digest == first.digest
    assert (await ledgers.tags(service.pool))["acme/api"]["raced"] == first.digest


async def test_untagged_garbage_goes_before_any_tagged_image(service):
    await service.configure("acme", 1_000_000, untagged_grace=0)
    await fill(service, 5)
    for number in range(4):
        image = build_image([build_layer(f"dev {number}", 100_000)])
        # What an event tells: no subject is known of an untagged OCI manifest.
        await service.push_built("acme/api", "dev", image)
    await service.pool.execute("UPDATE manifests SET subject_known = false, subject = NULL")
    answer = await service.ask("acme")
    assert answer.verdict.reason == "cleaned_to_target"
    assert {image.tags for image in answer.outcome.images} == {()}


async def test_a_build_larger_than_the_quota_costs_nobody_anything(service):
    await service.configure("acme", 1_000_000)
    await fill(service, 5, size=20_000)
    answer = await service.ask("acme", build_id="huge", incoming_bytes=10_000_000)
    assert answer.verdict.reason == "over_quota"
    assert answer.reservation is None
    after = await service.ask("acme", build_id="small", incoming_bytes=1)
    assert after.verdict.reason == "below_threshold"
    assert not after.outcome.images


async def test_enormous_reservations_break_nothing(service):
    await service.configure("acme", 2**62)
    for number in range(3):
        await service.ask("acme", build_id=str(number), incoming_bytes=2**62)
    view = await service.accounts.workspace("acme")
    assert view is not None
    assert view.reserved_bytes <= 2**62
    assert await service.accounts.workspaces(after="", limit=10)


async def test_a_workspace_that_somebody_holds_keeps_no_build_of_another_waiting(
    service, database_url
):
    """A consumer that is frozen holds its workspaces for as long as 20 seconds."""
    for workspace in ("acme", "other"):
        await service.configure(workspace, 1_000_000)
    statements = await open_statement_pool(database_url, size=1, name="tests")
    hook = PreBuildHook(
        service.pool,
        service.cleaner,
        default_quota_bytes=1,
        clock=utc_now,
        metrics=QuotaMetrics(),
        statements=statements,
    )

    def ask(workspace):
        return hook.check(PreBuild(workspace, build_id="b", incoming_bytes=1))

    async with statements, service.pool.acquire() as frozen:
        async with frozen.transaction():
            await workspaces.lock_workspace(frozen, "acme")
            held = asyncio.create_task(ask("acme"))
            await asyncio.sleep(0)
            answer = await asyncio.wait_for(ask("other"), 5)
            assert answer.reservation is not None
            assert not held.done()
        assert (await held).reservation is not None


async def test_names_that_are_compared_keep_no_build_of_another_waiting(
    service, database_url, monkeypatch
):
    """Thirty builds of names that nobody knows kept others for 8 s: each held a connection meanwhile."""
    await service.configure("other", 1_000_000)
    comparing, go_on = asyncio.Event(), asyncio.Event()

    async def compared(_name, _known):
        comparing.set()
        await go_on.wait()
        return ""

    monkeypatch.setattr("quota.unknown._meant", compared)
    async with await open_statement_pool(database_url, size=1, name="tests") as statements:
        hook = PreBuildHook(
            service.pool,
            service.cleaner,
            default_quota_bytes=1,
            clock=utc_now,
            metrics=QuotaMetrics(),
            statements=statements,
        )
        unknown = asyncio.create_task(hook.check(PreBuild("nobody", incoming_bytes=1)))
        await asyncio.wait_for(comparing.wait(), 10)
        answer = await asyncio.wait_for(hook.check(PreBuild("other", incoming_bytes=1)), 5)
        assert answer.verdict.decision == "proceed"
        assert not unknown.done()
        go_on.set()
        assert (await unknown).warnings[0].startswith("unknown_workspace: nobody")


async def test_a_build_that_was_denied_holds_nothing(service):
    await service.configure("acme", 1_000_000)
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    await fill(service, 1)
    assert (await service.ask("acme", build_id="b", incoming_bytes=1000)).reservation is not None
    denied = await service.ask("acme", build_id="b", incoming_bytes=950_000)
    assert denied.verdict.decision == "deny"
    view = await service.accounts.workspace("acme")
    assert view is not None
    assert view.reserved_bytes == 0


async def test_what_fills_up_between_the_look_and_the_lock_is_cleaned_before_a_denial(service):
    await service.configure("acme", 1_000_000)
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    await fill(service, 6)
    answers = await asyncio.gather(
        *(service.ask("acme", build_id=str(number), incoming_bytes=150_000) for number in range(2))
    )
    assert {answer.verdict.decision for answer in answers} == {"proceed"}


async def test_the_answer_comes_in_time_while_the_workspace_is_locked(service):
    await service.configure("acme", 1_000_000)
    await fill(service, 1)
    async with service.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM workspaces FOR UPDATE")
        began = time.monotonic()
        answer = await service.ask("acme", build_id="b", timeout_s=1.0)
        assert time.monotonic() - began < 1.0
    assert answer.verdict.reason == "check_failed"
    assert answer.verdict.decision == "proceed"


async def test_an_image_that_a_new_index_needs_is_not_deleted(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    images = await fill(service, 8)
    index = build_index({"amd64": images[0]})
    listing = service.registry.list_tags

    async def push_an_index_in_between(repository):
        await service.push_index("acme/api", "new", index)
        async for tag in listing(repository):
            yield tag

    monkeypatch.setattr(service.registry, "list_tags", push_an_index_in_between)
    answer = await service.ask("acme")
    assert answer.outcome.images
    assert await service.registry.get_manifest("acme/api", images[0].digest)


async def test_a_dry_run_does_not_promise_what_a_breaker_would_refuse(service):
    await service.configure("acme", 1_000_000, max_images_per_run=1)
    for number in range(9):
        await service.push("acme/api", f"v{number}", 100_000)
    refused = await service.ask("acme", dry_run=True)
    assert (refused.outcome.target_reached, refused.outcome.images) == (False, [])
    assert "max_images_per_run" in refused.warnings
    assert "max_images_per_run allows 1" in refused.verdict.message
    await service.configure("acme", 1_000_000)
    assert (await service.ask("acme", dry_run=True)).outcome.target_reached
    assert len(await service.tags("acme/api")) == 9


@pytest.mark.parametrize("failure", [ValueError("a bug"), asyncio.CancelledError()])
async def test_whatever_fails_on_our_side_stops_no_build(service, monkeypatch, failure):
    """A cancellation from within, too: unanswered, the caller would have to guess."""

    async def fails(*_arguments: object) -> None:
        raise failure

    monkeypatch.setattr(service.hook, "_check", fails)
    answer = await service.ask("acme", build_id="b")
    assert (answer.verdict.decision, answer.verdict.reason) == ("proceed", "check_failed")


def told(answer):
    """What a dry run and the call itself have to say alike."""
    return (
        answer.verdict.decision,
        answer.verdict.reason,
        answer.figures,
        answer.usage_before,
        answer.outcome.images,
        answer.outcome.freed_bytes,
        answer.outcome.target_reached,
        answer.outcome.obstacle,
        [w for w in (*answer.warnings, *answer.outcome.warnings) if w != "dry_run"],
    )


SHARED = build_layer("shared by some", 150_000)
CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "there is room": ({"incoming_bytes": 1000}, 9_000_000, {}),
    "some go": ({"incoming_bytes": 100_000}, 1_400_000, {}),
    "the target is out of reach": ({"incoming_bytes": 900_000}, 1_100_000, {}),
    "larger than the quota": ({"incoming_bytes": 2_000_000}, 1_000_000, {}),
    "a breaker allows what fits": (
        {"incoming_bytes": 500_000},
        1_500_000,
        {"target": 0.5, "max_ratio_per_run": 0.5},
    ),
    "a breaker refuses": ({"incoming_bytes": 100_000}, 800_000, {"max_images_per_run": 1}),
    "its layers are held by what goes": (
        {"layers": ((SHARED.digest, 150_000), (bytes(32), 40_000))},
        1_200_000,
        {},
    ),
    "everything is kept": ({"incoming_bytes": 900_000}, 1_200_000, {"keep_tags": ["*"]}),
}


@pytest.mark.parametrize("enforcement", ["advisory", "strict"])
@pytest.mark.parametrize("case", CASES)
async def test_a_dry_run_answers_what_the_call_then_does(service, case, enforcement):
    build, quota, policy = CASES[case]
    await service.configure("acme", quota, untagged_grace=0, **policy)
    await service.accounts.configure("acme", Settings(enforcement=enforcement))
    for number in range(2):
        layers = [SHARED, build_layer(f"old {number}", 50_000)]
        await service.push_built("acme/api", f"old-{number}", build_image(layers))
    await fill(service, 5)
    children = {name: build_image([build_layer(f"child {name}", 50_000)]) for name in ("a", "b")}
    await service.push_index("acme/web", "1", build_index(children))
    await fill(service, 2, repository="acme/web")
    before = await service.usage("acme")
    rehearsed = await service.ask("acme", app="api", dry_run=True, **build)
    assert await service.usage("acme") == before
    assert await service.pool.fetchval("SELECT count(*) FROM cleanup_runs") == 0
    assert await service.pool.fetchval("SELECT count(*) FROM outbox WHERE type ~ 'clean|den'") == 0
    answer = await service.ask("acme", app="api", **build)
    assert told(rehearsed) == told(answer)


async def test_whatever_names_a_digest_by_its_tag_goes_with_it(service):
    """A signature beside the list of referrers, as a registry without their API has both."""
    await service.configure("acme", 10**9)
    following: dict[str, set[str]] = {}
    for number in range(5):
        image = await service.push("acme/api", f"1.{number}", 100_000)
        name = f"sha256-{image.digest.hex()}"
        # What goes before the list, and what after it.
        for tag in (f"{name}.sig", f"{name}.att", name, f"{name}.sbom"):
            await service.push_built("acme/api", tag, build_signature(f"{number} {tag}"))
            following.setdefault(f"1.{number}", set()).add(tag)
    usage = await service.usage("acme")
    await service.configure("acme", int(usage / 0.95), max_ratio_per_run=1)
    rehearsed = await service.ask("acme", incoming_bytes=0, dry_run=True)
    answer = await service.ask("acme", incoming_bytes=0)
    assert told(rehearsed) == told(answer)
    assert answer.outcome.spared == []
    stay = {"1.2", "1.3", "1.4"}
    left = stay.union(*[following[tag] for tag in stay])
    assert await service.tags("acme/api") == left


async def test_a_dry_run_waits_for_a_cleanup_as_the_call_would(service, monkeypatch):
    await service.configure("acme", 1_000_000)
    await fill(service, 9)
    gate, delete = asyncio.Event(), service.registry.delete_manifest

    async def held(repository, digest):
        await gate.wait()
        return await delete(repository, digest)

    monkeypatch.setattr(service.registry, "delete_manifest", held)
    cleaning = asyncio.create_task(service.ask("acme"))
    await asyncio.sleep(0)
    rehearsing = asyncio.create_task(service.ask("acme", dry_run=True, timeout_s=20.0))
    await asyncio.sleep(0)
    gate.set()
    answer = await cleaning
    rehearsed = await rehearsing
    assert answer.outcome.images
    assert rehearsed.verdict.reason == "cleaned_to_target"
    assert rehearsed.figures.usage_bytes == await service.usage("acme")


async def test_a_breaker_that_allows_enough_for_a_strict_build_does_not_deny_it(service):
    await service.configure("acme", 1_000_000, target=0.3, max_ratio_per_run=0.5)
    await service.accounts.configure("acme", Settings(enforcement="strict"))
    await fill(service, 8)
    answer = await service.ask("acme", build_id="b", incoming_bytes=450_000)
    assert (answer.verdict.decision, answer.verdict.reason) == ("proceed", "still_above_target")
    assert [image.tags for image in answer.outcome.images] == [(f"v{n}",) for n in range(3)]
    assert "max_ratio_per_run" in answer.outcome.warnings
    assert "max_ratio_per_run (0.5) allows 4" in answer.verdict.message


async def test_the_plan_that_a_refusal_advises_shows_the_breaker_and_the_builds_bytes(service):
    """Also for an advisory build, whose bytes are reserved by then."""
    await service.configure("acme", 1_000_000, max_images_per_run=2)
    await fill(service, 8)
    answer = await service.ask("acme", build_id="b 1", incoming_bytes=450_000)
    assert answer.reservation is not None
    assert "max_images_per_run allows 2" in answer.verdict.message
    assert "`registry-quota plan acme --incoming 450000 --build 'b 1'`" in answer.verdict.message
    view = await service.accounts.workspace("acme")
    plan = await Runs(service.pool, service.cleaner, clock=utc_now).plan(
        view, PlannedBuild(450_000, "b 1"), by="a test"
    )
    assert [block["code"] for block in plan["blocks"]] == [
        "max_images_per_run",
        "max_ratio_per_run",
    ]
    assert (plan["incoming_bytes"], plan["reserved_bytes"]) == (450_000, 0)
    assert "; ".join(block["why"] for block in plan["blocks"]) == answer.outcome.obstacle
