"""`registry-quota doctor` beside real parts: fine when they are, and precise when they are not."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from yarl import URL

from cli.doctor import doors, postgres, registry
from devstack.registry import notification_endpoint
from registry.client import RegistryClient
from registry.models import OWN_USER_AGENT_PREFIX
from registry.push import build_image, build_layer, push_image
from runtime.settings import Settings
from tests.support.database import empty_database
from tests.support.ledger_images import pushed as image_pushed
from tests.support.ledgers import recorder
from tests.support.registries import answering, running_registry


def states(ran):
    """Check → its worst state."""
    order = ("ok", "skipped", "warning", "failed")
    worst: dict[str, str] = {}
    for finding in json.loads(ran.out)["findings"]:
        known = worst.get(finding["check"], "ok")
        worst[finding["check"]] = max(known, finding["state"], key=order.index)
    return worst


async def pushed(system):
    """An image whose notification has arrived."""
    image = build_image([build_layer("doctor-1", 100)])
    await push_image(system.registry, "doctor-1/api", image, "1.0")
    await system.settled()


async def test_a_running_stack_is_fine_and_the_block_points_at_its_receiver(system, command):
    image = build_image([build_layer("doctor", 20_000)])
    await push_image(system.registry, "doctor-1/api", image, "1.0")
    await system.settled()
    ran = await command("doctor", "--json")
    assert ran.code == 0, ran
    findings = json.loads(ran.out)["findings"]
    # Other tests take the registry away from reconciliation.
    wrong = [
        item for item in findings if item["state"] != "ok" and item["check"] != "reconciliation"
    ]
    assert wrong == []
    report = json.loads(ran.out)
    assert report["ok"]
    for version in ("v2", "v3"):
        block = report["registry_configuration"][version]["yaml"]
        assert f"url: {system.environment['RQ_WEBHOOK_URL']}" in block
    for secret in ("RQ_WEBHOOK_TOKEN", "RQ_API_TOKEN", "RQ_INTERNAL_API_KEY"):
        assert system.environment[secret] not in ran.out


async def test_for_people_it_prints_findings_the_block_and_settings_when_asked(system, command):
    block = ("--show-token", "--webhook-url", "http://rq.test:1/v1/notifications")
    ran = await command("doctor", *block)
    assert ran.code == 0, ran
    assert "RQ_DEFAULT_QUOTA_BYTES" not in ran.out
    ran = await command("doctor", "--settings", *block)
    assert ran.code == 0, ran
    assert ran.out.index("the newest") < ran.out.index("RQ_DEFAULT_QUOTA_BYTES")
    for secret in ("RQ_API_TOKEN", "RQ_INTERNAL_API_KEY"):
        assert system.environment[secret] not in ran.out
    assert "Kafka at" not in ran.out
    assert "url: http://rq.test:1/v1/notifications" in ran.out
    assert f'["Bearer {system.environment["RQ_WEBHOOK_TOKEN"]}"]' in ran.out
    assert "all fine" in ran.out
    assert ran.err == ""


async def test_every_token_that_is_wrong_is_found_by_its_place(system, command):
    good = system.environment
    wrong = {
        "RQ_WEBHOOK_TOKENS": f"{good['RQ_WEBHOOK_TOKEN']},other=wrong-token-of-a-test",
        "RQ_API_TOKEN": f"{good['RQ_API_TOKEN']},wrong-token-of-a-test",
        "RQ_INTERNAL_API_KEY": "wrong-key-of-a-test-too",
    }
    ran = await command("doctor", "--json", **wrong)
    assert ran.code == 1
    found = {item["check"]: item for item in json.loads(ran.out)["findings"]}
    assert found["receiver"]["found"].endswith("refuses RQ_WEBHOOK_TOKENS number 2 (of other)")
    assert found["api"]["found"].endswith("refuses RQ_API_TOKEN number 2")
    assert found["platform"]["found"].endswith("refuses RQ_INTERNAL_API_KEY")
    # What the first token lets in is told all the same.
    assert found["lag"]["state"] != "skipped"


async def test_status_has_a_line_for_the_registry_and_is_not_healthy_while_that_is_away(
    system, command
):
    ran = await command("status", "--json")
    checks = {item["name"]: item for item in json.loads(ran.out)["checks"]}
    assert checks["registry"]["state"] == "ok", checks["registry"]
    assert checks["registry"]["found"].endswith("answers and lets us in")


async def test_it_changes_no_account_and_tells_only_of_a_pull_of_its_own(system, command):
    # By id: partitions are read side by side, in no order between them.
    async def told() -> set[str]:
        messages = await system.messages("registry.notifications")
        own = {
            item["id"]
            for item in messages
            if item["action"] == "pull"  # what other tests clean up is no pull
            and item.get("request", {}).get("useragent", "").startswith(OWN_USER_AGENT_PREFIX)
        }
        return {item["id"] for item in messages} - own

    async def dead_letters() -> int:
        ran = await command("dead-letters", "list", "--json")
        return int(json.loads(ran.out)["total"])

    await pushed(system)
    before, dead = await told(), await dead_letters()
    assert before
    assert (await command("doctor")).code == 0
    assert await told() == before
    assert await dead_letters() == dead


async def test_topics_that_lose_something_are_named_with_the_command_that_mends_them(
    system, command
):
    """On the real broker, setting by setting."""
    cases = {
        ("registry.notifications", "retention.ms"): ("3600000", "warning", "-1"),
        ("registry.notifications", "cleanup.policy"): ("compact", "failed", "delete"),
        ("registry.notifications", "max.message.bytes"): ("1000000", "failed", "9437184"),
        ("registry.notifications.dead-letter", "retention.ms"): ("3600000", "warning", "-1"),
        ("registry.quota-events", "min.insync.replicas"): ("2", "failed", "1"),
    }
    admin = AIOKafkaAdminClient(bootstrap_servers=system.environment["RQ_KAFKA_BOOTSTRAP"])
    await admin.start()
    try:
        for place, good in (0, False), (2, True):
            for topic in {topic for topic, _name in cases}:
                changed = {n: v[place] for (t, n), v in cases.items() if t == topic}
                kept = {"retention.ms": "-1", "max.message.bytes": "9437184"}
                answer = await admin.alter_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, topic, kept | changed)]
                )
                assert answer[0].resources[0][0] == 0
            found = json.loads((await command("doctor", "--json")).out)["findings"]
            topics = [item for item in found if item["check"] == "topic"]
            for (topic, name), (_bad, state, mended) in cases.items():
                hits = [
                    item
                    for item in topics
                    if item["found"].startswith(f"{topic} ") and f"{name}={mended}" in item["mend"]
                ]
                assert [item["state"] for item in hits] == ([] if good else [state]), (topic, name)
    finally:
        await admin.close()


async def test_a_registry_that_leaves_references_out_is_noticed_until_they_come_back(
    system, command, tmp_path
):
    """A second registry on the same storage, so that sizes can still be asked for."""

    async def references() -> str:
        return str(states(await command("doctor", "--json"))["references"])

    async def push(client, tag):
        image = build_image([build_layer(f"references/{tag}", 2_000)])
        await push_image(client, "doctor-2/api", image, tag)
        await system.settled()

    with running_registry(
        tmp_path,
        storage=system.stack.run_dir.data("registry"),
        endpoint=notification_endpoint(
            system.environment["RQ_WEBHOOK_URL"], system.environment["RQ_WEBHOOK_TOKEN"]
        ),
    ) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push(client, "1.0")
    assert await references() == "warning"
    await push(system.registry, "1.1")
    assert await references() == "ok"


async def test_a_registry_whose_notifications_go_elsewhere_is_found_by_a_pull(
    system, command, tmp_path
):
    await pushed(system)  # others do arrive
    with running_registry(tmp_path) as url:
        await answering(url)
        async with RegistryClient(url) as client:
            await push_image(client, "doctor-3/api", build_image([build_layer("x", 100)]), "1.0")
        ran = await command("doctor", "--json", RQ_REGISTRY_URL=url)
    [finding] = [item for item in json.loads(ran.out)["findings"] if item["check"] == "delivery"]
    assert finding["state"] == "warning"
    assert "a pull of doctor-3/api:1.0 was told to nobody" in finding["found"]
    assert "notifications" in finding["mend"]


async def test_every_clock_is_compared_with_ours(system):
    settings = Settings.model_validate(
        {
            "database_url": system.environment["RQ_DATABASE_URL"],
            "registry_url": system.environment["RQ_REGISTRY_URL"],
            "api_token": system.environment["RQ_API_TOKEN"],
        }
    )

    async def clocks(ahead: float) -> list[str]:
        def clock() -> datetime:
            return datetime.now(UTC) + timedelta(seconds=ahead)

        webhook = URL(system.environment["RQ_WEBHOOK_URL"])
        api = URL(system.environment["RQ_API_URL"])
        findings = [
            *await postgres.check(settings, clock=clock),
            *await registry.check(settings, clock=clock),
            *await doors.check_receiver(settings, webhook, system.environment, clock=clock),
            *(await doors.check_api(settings, api, clock=clock))[0],
        ]
        return [item.state for item in findings if item.check == "clock"]

    assert await clocks(0) == ["ok"] * 4
    assert await clocks(30) == ["warning"] * 4
    assert await clocks(-300) == ["failed"] * 4


AWAY = {
    "RQ_DATABASE_URL": "postgresql://somebody:pass-word@127.0.0.1:1/x",
    "RQ_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "RQ_REGISTRY_URL": "127.0.0.1:1",
    "RQ_WEBHOOK_URL": "http://127.0.0.1:1/v1/notifications",
    "RQ_API_URL": "http://127.0.0.1:1",
    "RQ_GRPC_TARGET": "127.0.0.1:1",
}


async def test_everything_that_is_away_is_named_with_a_remedy(command):
    ran = await command("doctor", "--json", **AWAY)
    assert ran.code == 1
    away = {check for check, state in states(ran).items() if state == "failed"}
    assert away == {"postgres", "kafka", "registry", "receiver", "api"}
    assert states(ran)["grpc"] == "warning"
    for finding in json.loads(ran.out)["findings"]:
        assert finding["mend"] or finding["state"] in ("ok", "skipped")
    assert "pass-word" not in ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    ("variable", "check"), [("RQ_API_TOKEN", "api"), ("RQ_WEBHOOK_TOKENS", "receiver")]
)
async def test_a_token_that_is_refused_is_named(command, variable, check):
    ran = await command("doctor", "--json", **{variable: "not-the-token-that-they-run-with"})
    assert ran.code == 1
    assert [name for name, state in states(ran).items() if state == "failed"] == [check]


async def test_a_wrong_setting_is_named(command):
    ran = await command("doctor", RQ_ACK_TIMEOUT="soon")
    assert ran.code == 1
    assert "RQ_ACK_TIMEOUT" in ran.out


async def test_a_database_without_our_schema_is_told_to_migrate(postgres_url):
    async with empty_database(postgres_url) as url:
        findings = await postgres.check(Settings.model_validate({"database_url": url}))
    assert [(item.check, item.state) for item in findings] == [
        ("postgres", "ok"),
        ("clock", "ok"),
        ("schema", "failed"),
    ]
    assert "registry-quota migrate" in findings[-1].mend


async def test_a_migrated_database_is_fine(database_url):
    findings = await postgres.check(Settings.model_validate({"database_url": database_url}))
    assert [item.state for item in findings] == ["ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("pattern", "state"),
    [("^(?P<workspace>[^/]+)/(?P<app>.+)$", "ok"), ("^(?P<workspace>x+),(?P<app>.+)$", "warning")],
)
async def test_a_workspace_pattern_that_matches_no_repository_is_named(
    database_url, pool, pattern, state
):
    await recorder(pool).record(
        [image_pushed("acme/api", "1", [("layer", 100)])], now=datetime.now(UTC)
    )
    settings = Settings.model_validate({"database_url": database_url, "workspace_pattern": pattern})
    *_, finding = await postgres.check(settings)
    assert (finding.check, finding.state) == ("workspaces", state)
    if state == "warning":
        assert pattern in finding.found
        assert "acme/api" in finding.found


async def findings_of_registry(url, **settings):
    given = {"registry_url": url} | settings
    findings = await registry.check(Settings.model_validate(given))
    return {item.check: item.state for item in findings}


async def test_a_registry_that_does_not_delete_is_told_apart(tmp_path):
    with running_registry(tmp_path, deletes=False) as url:
        await answering(url)
        assert await findings_of_registry(url) == {
            "registry": "ok",
            "clock": "ok",
            "lists": "ok",
            "deletes": "failed",
        }


async def test_a_registry_that_wants_a_password_is_told_apart(tmp_path):
    with running_registry(tmp_path, htpasswd=True) as url:
        await answering(url)
        assert await findings_of_registry(url) == {"registry": "failed"}
        account = {"registry_username": "tester", "registry_password": "throw-away"}
        assert await findings_of_registry(url, **account) == {
            "registry": "ok",
            "clock": "ok",
            "lists": "ok",
            "deletes": "ok",
        }
