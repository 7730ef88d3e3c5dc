"""`registry-quota doctor` beside real parts: fine when they are, and precise when they are not."""

import json

import pytest

from cli.doctor import postgres, registry
from registry.push import build_image, build_layer, push_image
from runtime.settings import Settings
from tests.support.database import empty_database
from tests.support.registries import answering, running_registry


def states(ran):
    """Check → its worst state."""
    order = ("ok", "skipped", "warning", "failed")
    worst: dict[str, str] = {}
    for finding in json.loads(ran.out)["findings"]:
        known = worst.get(finding["check"], "ok")
        worst[finding["check"]] = max(known, finding["state"], key=order.index)
    return worst


async def test_a_running_stack_is_fine_and_the_block_points_at_its_receiver(system, command):
    image = build_image([build_layer("doctor", 20_000)])
    await push_image(system.registry, "doctor-1/api", image, "1.0")
    await system.settled()
    ran = await command("doctor", "--json")
    assert ran.code == 0, ran
    assert set(states(ran).values()) == {"ok"}
    report = json.loads(ran.out)
    assert report["ok"]
    for version in ("v2", "v3"):
        block = report["registry_configuration"][version]["yaml"]
        assert f"url: {system.environment['RQ_WEBHOOK_URL']}" in block
    for secret in ("RQ_WEBHOOK_TOKEN", "RQ_API_TOKEN", "RQ_INTERNAL_API_KEY"):
        assert system.environment[secret] not in ran.out


async def test_for_people_it_prints_settings_findings_and_the_block(system, command):
    ran = await command(
        "doctor", "--show-token", "--webhook-url", "http://rq.test:1/v1/notifications"
    )
    assert ran.code == 0, ran
    assert "RQ_DEFAULT_QUOTA_BYTES" in ran.out
    assert "Kafka at" not in ran.out
    assert "url: http://rq.test:1/v1/notifications" in ran.out
    assert f'["Bearer {system.environment["RQ_WEBHOOK_TOKEN"]}"]' in ran.out
    assert "all fine" in ran.out
    assert ran.err == ""


async def test_it_changes_nothing(system, command):
    # By id: partitions are read side by side, in no order between them.
    async def told() -> set[str]:
        return {message["id"] for message in await system.messages("registry.notifications")}

    async def dead_letters() -> int:
        ran = await command("dead-letters", "list", "--json")
        return int(json.loads(ran.out)["total"])

    before, dead = await told(), await dead_letters()
    assert before
    assert (await command("doctor")).code == 0
    assert await told() == before
    assert await dead_letters() == dead


AWAY = {
    "RQ_DATABASE_URL": "postgresql://somebody:pass-word@127.0.0.1:1/x",
    "RQ_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "RQ_REGISTRY_URL": "127.0.0.1:1",
    "RQ_WEBHOOK_URL": "http://127.0.0.1:1/v1/notifications",
    "RQ_API_URL": "http://127.0.0.1:1",
}


async def test_everything_that_is_away_is_named_with_a_remedy(command):
    ran = await command("doctor", "--json", **AWAY)
    assert ran.code == 1
    away = {check for check, state in states(ran).items() if state == "failed"}
    assert away == {"postgres", "kafka", "registry", "receiver", "api"}
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
        ("schema", "failed"),
    ]
    assert "registry-quota migrate" in findings[-1].mend


async def test_a_migrated_database_is_fine(database_url):
    findings = await postgres.check(Settings.model_validate({"database_url": database_url}))
    assert [item.state for item in findings] == ["ok", "ok"]


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
