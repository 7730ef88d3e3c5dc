"""An emptied registry, or another one at its address, makes nothing forgotten before a person says so."""

import time
from datetime import timedelta

import pytest
import pytest_asyncio

from quota.absence import is_mass, looks_like_another
from quota.reconcile import Reconciler, Report
from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from registry.workspaces import WorkspaceRule
from tests.integration.quota.conftest import Service, service_of, utc_now
from tests.support import ledgers

MANY = 25


@pytest_asyncio.fixture
async def service(pool, backend):
    async with (
        backend.registry("3", notification_url="http://127.0.0.1:9/x", token="t") as at,
        RegistryClient(at.url) as client,
    ):
        yield service_of(pool, client)


async def a_pass(service: Service, client: RegistryClient, **options) -> Report:
    report = await Reconciler(
        pool=service.pool,
        recorder=ledgers.recorder(service.pool),
        client=client,
        rule=WorkspaceRule(ledgers.PATTERN),
        clock=utc_now,
        in_flight=0.0,
        pull_through=False,
    ).run(**options)
    assert report is not None
    return report


async def an_hour_passes(service: Service) -> None:
    await service.pool.execute(
        "UPDATE suspected_absences SET missing_since = missing_since - $1::interval",
        timedelta(hours=2),
    )


async def filled(service: Service, images: int = MANY) -> int:
    yesterday = time.time_ns() - 86_400 * 10**9
    for number in range(images):
        image = build_image([build_layer(f"mass {number}", 2000)])
        await push_image(service.registry, "acme/api", image, f"1.{number}")
        document = image.manifest
        await service.tell(
            "acme/api", f"1.{number}", document.content, document.media_type, at_ns=yesterday
        )
    usage = await service.usage("acme")
    assert usage
    return usage


async def test_another_registry_at_the_address_makes_nothing_forgotten(service, backend):
    usage = await filled(service)
    async with (
        backend.registry("3", notification_url="http://127.0.0.1:9/x", token="t") as empty,
        RegistryClient(empty.url) as other,
    ):
        for confirm_now in (False, True, False):
            report = await a_pass(service, other, confirm_now=confirm_now)
            assert report.asks == MANY
            assert not report.equal
            assert f"--forgetting {MANY}" in report.problems[-1]
            assert await service.usage("acme") == usage
            await an_hour_passes(service)
        # A wrong number, and a number without having seen it.
        report = await a_pass(service, other, confirm_now=True, forgetting=MANY - 1)
        assert report.asks == MANY
        assert await service.usage("acme") == usage

        # The right one is back: all that was suspected is there.
        report = await a_pass(service, service.registry)
        assert (report.asks, report.suspected, report.drift) == (None, 0, [])
        assert await service.usage("acme") == usage

        # A person is sure, by the number that was shown.
        await a_pass(service, other)
        report = await a_pass(service, other, confirm_now=True, forgetting=MANY)
        assert report.asks is None
        assert await service.usage("acme") == 0


async def test_what_is_no_large_share_is_forgotten_as_ever(service):
    await filled(service)
    tags = sorted(await service.tags("acme/api"))[:4]
    for tag in tags:
        head = await service.registry.head_manifest("acme/api", tag)
        await service.registry.delete_manifest("acme/api", head.digest)
    await a_pass(service, service.registry)
    await an_hour_passes(service)
    report = await a_pass(service, service.registry)
    assert report.asks is None
    assert sum(item.forgotten for item in report.drift) == 4


@pytest.mark.parametrize(
    ("absent", "present", "mass"),
    [(19, 19, False), (20, 20, True), (20, 100, False), (21, 100, True), (1000, 5001, False)],
)
def test_a_mass_is_a_large_share_and_many(absent, present, mass):
    assert is_mass(absent, present) == mass


def test_by_a_sample_it_is_more_than_a_fifth():
    assert looks_like_another(5, 20, 1000)
    assert not looks_like_another(4, 20, 1000)
    assert not looks_like_another(10, 10, 10)
