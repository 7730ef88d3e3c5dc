"""`CheckQuotaAndCleanup`: the hook's decision in a build platform's words."""

import time

import pytest

from ledger.workspaces import Settings
from tests.integration.quota.conftest import DEFAULT_QUOTA, service_of
from tests.integration.quota.grpc.conftest import serving_door
from tests.support.fake_registry import hangs, serving_fake


async def fill(door, count, size=100_000):
    for number in range(count):
        await door.behind.push("acme/api", f"v{number}", size)


async def test_an_unknown_workspace_is_an_empty_one_at_the_default_quota(door):
    answer = await door.check("nobody")
    assert (answer.current_usage_bytes, answer.quota_bytes) == (0, DEFAULT_QUOTA)
    assert not answer.cleanup_performed
    assert not answer.error


async def test_below_the_threshold_nothing_is_cleaned(door):
    await door.behind.configure("acme", 1_000_000)
    await fill(door, 5)
    answer = await door.check("acme")
    assert not answer.cleanup_performed
    assert answer.current_usage_bytes == await door.behind.usage("acme")
    assert answer.quota_bytes == 1_000_000


async def test_the_estimate_counts_as_incoming_and_makes_room(door):
    await door.behind.configure("acme", 1_000_000)
    await fill(door, 6)
    before = await door.behind.usage("acme")
    answer = await door.check("acme", 200_000)
    assert answer.cleanup_performed
    assert not answer.error
    assert answer.current_usage_bytes + 200_000 <= 700_000
    assert [(image.app_name, image.tag) for image in answer.cleaned_images] == [
        ("api", "v0"),
        ("api", "v1"),
    ]
    freed = sum(image.size_bytes for image in answer.cleaned_images)
    assert freed == before - answer.current_usage_bytes


async def test_an_image_of_two_tags_is_two_entries_with_the_bytes_on_the_first(door):
    await door.behind.configure("acme", 1_000_000)
    image = await door.behind.push("acme/api", "old", 300_000)
    await door.behind.push_built("acme/api", "older", image)
    await fill(door, 6)
    answer = await door.check("acme")
    assert [image.tag for image in answer.cleaned_images][:2] == ["old", "older"]
    assert answer.cleaned_images[0].size_bytes >= 300_000
    assert answer.cleaned_images[1].size_bytes == 0


async def test_it_reserves_nothing(door):
    await door.behind.configure("acme", 1_000_000)
    await fill(door, 1)
    for _ in range(3):
        assert not (await door.check("acme", 500_000)).cleanup_performed
    view = await door.behind.accounts.workspace("acme")
    assert view is not None
    assert view.reserved_bytes == 0


async def test_what_can_never_fit_is_said_and_costs_nobody_an_image(door):
    await door.behind.configure("acme", 1_000_000)
    await fill(door, 5)
    answer = await door.check("acme", 5_000_000)
    assert not answer.cleanup_performed
    assert "acme" in answer.error


async def test_a_denial_of_a_strict_workspace_stands_in_error(door):
    await door.behind.configure("acme", 1_000_000)
    await door.behind.accounts.configure("acme", Settings(enforcement="strict"))
    await fill(door, 2, size=420_000)
    answer = await door.check("acme", 400_000)
    assert answer.error
    assert not answer.cleanup_performed


async def test_images_that_must_stay_are_no_failure(door):
    await door.behind.configure("acme", 1_000_000)
    await fill(door, 1, size=900_000)
    answer = await door.check("acme")
    assert not answer.cleanup_performed
    assert not answer.error


@pytest.mark.parametrize("seconds", [1.0, 2.0])
async def test_the_answer_comes_before_the_callers_deadline_while_the_registry_hangs(
    pool, service, seconds
):
    await service.configure("acme", 1_000_000)
    for number in range(8):
        await service.push("acme/api", f"v{number}", 100_000)
    async with serving_fake() as fake:
        fake.script = [hangs]
        async with fake.client() as hanging, serving_door(service_of(pool, hanging)) as door:
            began = time.monotonic()
            answer = await door.check("acme", seconds=seconds)
            assert time.monotonic() - began < seconds
            assert not answer.cleanup_performed
            assert answer.current_usage_bytes == await service.usage("acme")
            await door.behind.cleaner.finish(0)
