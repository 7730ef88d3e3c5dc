"""Real registries of both versions, configured and served as they are in the field."""

import pytest

from registry.client import RegistryClient
from registry.errors import RegistryError, RegistryRefused, RegistryUnavailable, SentElsewhere
from registry.push import build_image, build_layer, push_image
from tests.support.registries import answering, registry_configured
from tests.support.registry_proxy import in_front_of

pytestmark = pytest.mark.parametrize("version", ["2", "3"])

DIGEST_HEADER = "Docker-Content-Digest"


async def filled(client: RegistryClient, *, repositories: int = 1, tags: int = 1) -> None:
    for number in range(repositories):
        image = build_image([build_layer(f"layer{number}", 300)])
        for tag in range(tags if number == 0 else 1):
            await push_image(client, f"acme/app{number}", image, f"1.{tag}")


@pytest.mark.parametrize("most", [1, 5, 999])
async def test_a_registry_that_gives_fewer_at_a_time_is_listed_to_its_end(tmp_path, version, most):
    limits = {"catalog": {"maxentries": most}}
    if version == "3":
        limits["tags"] = {"maxtags": most}
    with registry_configured(tmp_path, version, **limits) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await filled(client, repositories=7, tags=12)
            assert [name async for name in client.catalog()] == [f"acme/app{n}" for n in range(7)]
            tags = [tag async for tag in client.list_tags("acme/app0")]
            assert sorted(tags) == sorted(f"1.{number}" for number in range(12))


@pytest.mark.parametrize("most", [1, 4, 8, None])
async def test_a_list_is_whole_where_a_proxy_strips_the_link_to_its_next_page(
    tmp_path, version, most, monkeypatch
):
    """A page that may be full is not taken for the last: what comes after it is asked for."""
    limits = {} if most is None else {"catalog": {"maxentries": most}}
    if most is not None and version == "3":
        limits["tags"] = {"maxtags": most}
    if most is None:
        monkeypatch.setattr("registry.client.PAGE_SIZE", 4)
    with registry_configured(tmp_path, version, **limits) as url:
        await answering(url)
        async with in_front_of(url, strips=("Link",)) as proxy, RegistryClient(proxy.url) as client:
            await filled(client, repositories=8, tags=12)
            assert [name async for name in client.catalog()] == [f"acme/app{n}" for n in range(8)]
            tags = [tag async for tag in client.list_tags("acme/app0")]
            assert sorted(tags) == sorted(f"1.{number}" for number in range(12))


async def test_a_wrong_path_proves_nobodys_absence(tmp_path, version):
    """Below it a registry says "404 page not found", with the header by which registries are known."""
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with RegistryClient(url) as right, RegistryClient(url + "/docker") as wrong:
            await filled(right)
            digest = (await right.get_manifest("acme/app0", "1.0")).digest
            with pytest.raises(RegistryRefused, match="404 page not found"):
                await wrong.ping()
            for asked in (
                wrong.get_manifest("acme/app0", digest),
                wrong.head_manifest("acme/app0", digest),
                wrong.tag_digest("acme/app0", "1.0", digest),
                wrong.head_blob("acme/app0", digest),
                wrong.has_blob("acme/app0", digest),
                wrong.delete_manifest("acme/app0", digest),
            ):
                with pytest.raises(RegistryUnavailable, match="other than a registry"):
                    await asked
            for listed in (wrong.list_tags("acme/app0"), wrong.catalog()):
                with pytest.raises(RegistryError):
                    _ = [name async for name in listed]


@pytest.mark.parametrize("knows", [True, False])
async def test_a_registry_below_a_path_is_read_and_written_there(tmp_path, version, knows):
    """By its own `http.prefix`, and by a proxy that takes the path away before it."""
    own = {"http": {"prefix": "/team/docker/"}} if knows else {}
    with registry_configured(tmp_path, version, catalog={"maxentries": 2}, **own) as url:
        await answering(url)
        async with in_front_of(url, prefix="" if knows else "/team/docker") as proxy:
            for address in [url if knows else proxy.url, (url if knows else proxy.url) + "/v2/"]:
                async with RegistryClient(address) as client:
                    assert client.base.path == "/team/docker"
                    await filled(client, repositories=5, tags=3)
                    names = [name async for name in client.catalog()]
                    assert names == [f"acme/app{number}" for number in range(5)]
                    state = await client.tag_digest("acme/app0", "1.1")
                    assert state.digest is not None
                    found = await client.get_manifest("acme/app0", state.digest)
                    assert await client.delete_manifest("acme/app0", found.digest)
                    assert not (await client.head_manifest("acme/app0", found.digest)).exists


async def test_where_a_proxy_strips_digests_they_are_computed(tmp_path, version):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with (
            RegistryClient(url) as direct,
            in_front_of(url, strips=(DIGEST_HEADER,)) as proxy,
            RegistryClient(proxy.url) as client,
        ):
            images = [build_image([build_layer(name, 300)]) for name in ("one", "two")]
            await push_image(direct, "acme/app", images[0], "1")
            assert (await client.tag_digest("acme/app", "1")).digest == images[0].digest
            await push_image(client, "acme/app", images[1], "1")
            moved = await client.tag_digest("acme/app", "1", images[0].digest)
            assert moved.digest == images[1].digest
            same = await client.tag_digest("acme/app", "1", images[1].digest)
            assert same.digest == images[1].digest
            assert (await client.get_manifest("acme/app", "1")).digest == images[1].digest
            assert (await client.tag_digest("acme/app", "none")).digest is None
            assert (await client.head_manifest("acme/app", images[0].digest)).exists


async def test_a_blob_that_is_elsewhere_names_where(tmp_path, version):
    with registry_configured(tmp_path, version) as url:
        await answering(url)
        async with in_front_of(url, stores_at="localhost") as proxy:
            image = build_image([build_layer("one", 300)])
            async with RegistryClient(url) as client:
                await push_image(client, "acme/app", image, "1")
            config = image.config
            async with RegistryClient(proxy.url) as client:
                assert await client.head_blob("acme/app", config.digest) is None
                with pytest.raises(
                    SentElsewhere, match="RQ_REGISTRY_REDIRECT_HOSTS=localhost"
                ) as told:
                    await client.get_blob("acme/app", config.digest, 10_000)
                assert told.value.host == "localhost"
            allowed = frozenset({"localhost"})
            async with RegistryClient(proxy.url, redirect_hosts=allowed) as client:
                assert await client.head_blob("acme/app", config.digest) == len(config.content)
                assert await client.get_blob("acme/app", config.digest, 10_000) == config.content
