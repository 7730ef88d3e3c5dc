"""A real registry delivers to a receiver that speaks TLS."""

from registry.client import RegistryClient
from registry.push import build_image, build_layer, push_image
from runtime.settings import Settings
from runtime.tls import door_certificate
from tests.integration.webhook_receiver.conftest import TOKEN
from tests.support.certificates import Authority
from tests.support.registries import answering, running_registry
from tests.support.waiting import wait_until


async def test_a_real_registry_delivers_by_tls_to_the_receiver_that_it_can_verify(
    tmp_path, start_receiver
):
    authority = Authority(tmp_path)
    pair = authority.issue()
    certificate = door_certificate(Settings(tls_cert=str(pair.certificate), tls_key=str(pair.key)))
    receiver = await start_receiver(certificate=certificate)
    endpoint = {
        "name": "registry-quota",
        "url": f"https://127.0.0.1:{receiver.port}/v1/notifications",
        "headers": {"Authorization": [f"Bearer {TOKEN}"]},
        "timeout": "1s",
        "threshold": 5,
        "backoff": "200ms",
    }
    with running_registry(tmp_path, endpoint=endpoint, trusts=authority.file) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push_image(client, "acme/api", build_image([build_layer("one", 100)]), "v1")
        arrived = []

        async def both() -> bool:
            arrived.extend(await receiver.records())
            return sum(b'"tag"' in record.value for record in arrived) > 0

        await wait_until(both, 10, what="the push by tag, delivered by TLS")
