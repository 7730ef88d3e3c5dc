"""Whose a repository is counts at the moment when something is done to it, by its present rules."""

from datetime import UTC, datetime

import msgspec
import pytest

from ledger.mapping import CleanupRunningError, Mapper, MovedMeanwhileError
from ledger.naming import Age
from quota.cleaning import Job
from quota.dating import Dater
from quota.levels import level
from quota.records import Claim, Records
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


def mapper_of(service: Service) -> Mapper:
    return Mapper(
        service.pool,
        rule=WorkspaceRule(ledgers.PATTERN),
        default_quota_bytes=10**9,
        level_of=level,
    )


async def hand_over(service: Service, repository: str = "acme/web") -> None:
    await mapper_of(service).map("default", repository, Placement("globex", "web"), now=utc_now())


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


async def test_a_record_is_only_told_of_and_forgotten_in_the_workspace_that_it_was_allowed_in(
    service: Service,
) -> None:
    """Who may write in acme says nothing of what globex has by then."""
    recorder = ledgers.recorder(service.pool)
    records = Records(service.pool, recorder=recorder, mapper=mapper_of(service), clock=utc_now)
    claim = Claim("acme", "web", "told", b"\1" * 32, 5000)
    document, _created = await records.put(claim, await records.place(claim))
    found = await records.find(document["id"])
    assert found is not None
    place = await records.place(claim)
    await hand_over(service)
    before = await ledgers.usage(service.pool)
    with pytest.raises(MovedMeanwhileError):
        await records.put(msgspec.structs.replace(claim, tag="more", digest=b"\2" * 32), place)
    with pytest.raises(MovedMeanwhileError):
        await records.remove(found)
    assert await ledgers.usage(service.pool) == before == {"globex": 5000}


async def test_an_image_is_only_dated_by_the_workspace_that_has_it(service: Service) -> None:
    await service.configure("acme", 10**9)
    await service.push_built("acme/web", "1.0", next(iter(IMAGES.values())))
    acme = await service.accounts.workspace("acme")
    assert acme is not None

    class Late(Dater):
        async def _views(self, workspace):
            views = await super()._views(workspace)
            await hand_over(service)
            return [msgspec.structs.replace(view, age=Age()) for view in views]

    dater = Late(service.pool, ledgers.recorder(service.pool), clock=utc_now)
    with pytest.raises(MovedMeanwhileError):
        await dater.all_unknown(acme, None, datetime(2020, 1, 1, tzinfo=UTC))
    dated = "SELECT count(*) FROM manifests WHERE dated_ns IS NOT NULL"
    assert await service.pool.fetchval(dated) == 0
