"""A registry behind TLS with an authority of one's own."""

import ssl

import pytest

from registry.connect import registry_client
from registry.errors import RegistryError
from registry.push import build_image, build_layer, push_image
from registry.transport import Retries
from runtime.settings import Settings
from runtime.tls import client_context
from tests.support.certificates import Authority
from tests.support.registries import answering, running_registry

ONCE = Retries(attempts=1)


def settings(url: str, trusted: Authority) -> Settings:
    return Settings(registry_url=url, ca_file=str(trusted.file))


async def test_it_is_read_and_cleaned_by_tls_and_only_when_it_is_the_right_one(tmp_path):
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "another")
    with running_registry(tmp_path, tls=authority.issue()) as url:
        known = settings(url, authority)
        await answering(url, tls=client_context(known))
        async with registry_client(known, retries=ONCE) as client:
            image = build_image([build_layer("one", 100)])
            await push_image(client, "acme/api", image, "v1")
            state = await client.tag_digest("acme/api", "v1")
            assert state.digest is not None
            assert (await client.delete_manifest("acme/api", state.digest)).existed

        for wrong, told in (
            (settings(url, stranger), "set RQ_CA_FILE"),
            (Settings(registry_url=url), "set RQ_CA_FILE"),
            # Go's own words.
            (
                settings(url.replace("https:", "http:"), authority),
                "HTTP request to an HTTPS server",
            ),
        ):
            async with registry_client(wrong, retries=ONCE) as client:
                with pytest.raises(RegistryError, match=told):
                    await client.ping()


async def test_another_name_and_a_plain_registry_are_refused_with_what_to_do(tmp_path):
    authority = Authority(tmp_path / "ours")
    (tmp_path / "tls").mkdir()
    (tmp_path / "plain").mkdir()
    with (
        running_registry(tmp_path / "tls", tls=authority.issue("registry.example.com")) as misnamed,
        running_registry(tmp_path / "plain") as plain,
    ):
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        await answering(plain)
        await answering(misnamed, tls=unchecked)
        for url, told in (
            (misnamed, "for another name"),
            (plain.replace("http:", "https:"), "does not speak TLS there"),
        ):
            async with registry_client(settings(url, authority), retries=ONCE) as client:
                with pytest.raises(RegistryError, match=told):
                    await client.ping()
