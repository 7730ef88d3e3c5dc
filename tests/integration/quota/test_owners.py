"""Whose a repository is counts at the moment when something is done to it, by its present rules."""

import pytest

from ledger.mapping import CleanupRunningError, Mapper
from quota.cleaning import Job
from quota.levels import level
from quota.restore import Restorer
from quota.snapshot import Incoming
from registry.push import build_image, build_layer
from registry.refs import parse_image_name
from registry.workspaces import Placement, WorkspaceRule
from tests.integration.quota.conftest import Service, utc_now
from tests.support import ledgers

QUOTA = 500_000
IMAGES = {
    f"1.{number}": build_image([build_layer(f"owner {number}", 140_000)]) for number in range(5)
}


async def hand_over(service: Service, repository: str = "acme/web") -> None:
    mapper = Mapper(
        service.pool,
        rule=WorkspaceRule(ledgers.PATTERN),
        default_quota_bytes=10**9,
        level_of=level,
    )
    await mapper.map("default", repository, Placement("globex", "web"), now=utc_now())


async def filled(service: Service) -> None:
    await service.configure("acme", QUOTA)
    await service.configure("globex", 10**9, keep_tags=["*"])
    for tag, image in IMAGES.items():
        await service.push_built("acme/web", tag, image)


async def test_what_is_mapped_away_between_plan_and_run_goes_by_its_new_owners_rules(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(service)
    begin = Job._begin
    handed: list[bool] = []

    async def begin_late(job, *arguments, **options):
        if not handed:
            await hand_over(service)
            handed.append(True)
        return await begin(job, *arguments, **options)

    monkeypatch.setattr(Job, "_begin", begin_late)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    assert handed
    assert outcome.images == []
    assert set(await service.tags("acme/web")) == set(IMAGES)


async def test_what_is_being_cleaned_is_not_mapped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(service)
    begin = Job._begin
    refused: list[bool] = []

    async def begin_and_hand_over(job, *arguments, **options):
        begun = await begin(job, *arguments, **options)
        with pytest.raises(CleanupRunningError):
            await hand_over(service)
        refused.append(True)
        return begun

    monkeypatch.setattr(Job, "_begin", begin_and_hand_over)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    assert refused
    assert outcome.images


async def test_only_the_present_owner_puts_back_and_nobody_else_is_told(service: Service) -> None:
    await filled(service)
    task, outcome, _own = service.cleaner.start("acme", Incoming(), cause="a test")
    await task
    [gone] = {tag for image in outcome.images for tag in image.tags} & {"1.0"}
    await hand_over(service)
    # Somebody else's image has the tag by now: its digest is none of the former owner's business.
    mine = build_image([build_layer("of globex", 1000)])
    await service.push_built("acme/web", gone, mine)

    restorer = Restorer(service.cleaner)
    acme, globex = [await service.accounts.workspace(name) for name in ("acme", "globex")]
    assert acme is not None
    assert globex is not None
    assert outcome.run_id is not None
    before = await service.tags("acme/web")
    done = await restorer.run(acme, outcome.run_id)
    assert {image.state for image in done.images} == {"failed"}
    assert all("another workspace" in image.why and not image.moved_tags for image in done.images)
    assert await service.tags("acme/web") == before

    back = await restorer.image(globex, parse_image_name("acme/web:1.0"))
    assert [image.state for image in back.images] == ["restored"]
    assert [tag.tag for tag in back.images[0].moved_tags] == ["1.0"]
    assert await ledgers.usage(service.pool) == await ledgers.recount(service.pool)
