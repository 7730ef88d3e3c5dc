"""Doctor's view of the settings: nothing secret is shown, nothing wrong is passed over."""

import pytest

from cli.doctor.settings import check, shown, webhook_token, webhook_url
from runtime.settings import Settings, SettingsError

SECRET = "d41d8cd98f00b204e9800998ecf8427e"
COMPLETE = {
    "RQ_WEBHOOK_TOKENS": f"{SECRET}w",
    "RQ_API_TOKEN": f"{SECRET}a",
    "RQ_INTERNAL_API_KEY": f"{SECRET}i",
    "RQ_DATABASE_URL": f"postgresql://user:{SECRET}@db:5432/registry_quota",
}


@pytest.fixture
def settings(monkeypatch):
    """Settings from just these variables."""
    import os

    for name in list(os.environ):
        if name.startswith(("RQ_", "ORBIT_")):
            monkeypatch.delenv(name)

    def load(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings.load()

    return load


def values(settings):
    return {row.variable: row.value for row in shown(settings)}


def found(settings, environ=None):
    environ = COMPLETE if environ is None else environ
    return [(item.state, item.found) for item in check(settings, environ)]


def test_every_setting_is_shown_and_no_secret(settings):
    loaded = settings(**COMPLETE, RQ_REGISTRY_PASSWORD=SECRET, RQ_KAFKA_SASL_PASSWORD=SECRET)
    rows = values(loaded)
    assert rows.keys() == {f"RQ_{name.upper()}" for name in Settings.model_fields}
    assert SECRET not in str(rows)
    assert rows["RQ_API_TOKEN"] == "******** (33 characters)"
    assert rows["RQ_DATABASE_URL"] == "postgresql://user:********@db:5432/registry_quota"


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://u:p%40ss@db/x", "postgresql://u:********@db/x"),
        ("postgresql://u:s@cret@db/x", "postgresql://u:********@db/x"),
        (
            "postgresql://db/x?user=u&password=secret&ssl=on",
            "postgresql://db/x?user=u&password=********&ssl=on",
        ),
        ("postgresql://db/x", "postgresql://db/x"),
    ],
)
def test_a_url_is_shown_without_its_password(settings, url, seen):
    assert values(settings(RQ_DATABASE_URL=url))["RQ_DATABASE_URL"] == seen


def test_given_values_are_told_from_defaults(settings):
    rows = {row.variable: row.given for row in shown(settings(ORBIT_REGISTRY_URL="reg:5000"))}
    assert rows["RQ_REGISTRY_URL"]
    assert not rows["RQ_KAFKA_BOOTSTRAP"]


def test_nothing_to_say_of_complete_settings(settings):
    assert found(settings(**COMPLETE)) == [("ok", "all are set")]


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_secret_that_is_missing_or_empty_fails(settings, name, value):
    variables = {key: text for key, text in COMPLETE.items() if key != name}
    if value is not None:
        variables[name] = value
    [(state, what)] = found(settings(**variables), variables)
    assert state == "failed"
    assert name in what


def test_a_container_that_has_its_own_roles_secrets_alone_says_what_is_not_tried(
    settings, tmp_path
):
    given = {name: value for name, value in COMPLETE.items() if name != "RQ_WEBHOOK_TOKENS"}
    environ = given | {"RQ_SECRETS_DIR": str(tmp_path)}
    assert found(settings(**environ), environ) == [
        ("skipped", "RQ_WEBHOOK_TOKENS: the receiver alone has them, and the registry")
    ]
    environ |= {"RQ_WEBHOOK_TOKENS": ""}
    assert found(settings(**environ), environ)[0][0] == "failed", "set, and to nothing"


def test_short_and_shared_secrets_are_warned_of(settings):
    loaded = settings(**COMPLETE | {"RQ_API_TOKEN": "abc", "RQ_INTERNAL_API_KEY": "abc"})
    states = found(loaded)
    assert {state for state, _ in states} == {"warning"}
    assert any("RQ_API_TOKEN has only 3 characters" in what for _, what in states)
    assert any("one text serves as two secrets" in what for _, what in states)
    assert "abc" not in str(states)


def test_a_misspelt_variable_is_named(settings):
    environ = COMPLETE | {"RQ_REGISTY_URL": "x", "RQ_RUN_DIR": "y", "RQ_TEST_BACKEND": "docker"}
    assert ("warning", "not a setting: RQ_REGISTY_URL") in found(settings(**COMPLETE), environ)


def test_an_ack_timeout_above_the_registrys_own_is_warned_of(settings):
    states = found(settings(**COMPLETE, RQ_ACK_TIMEOUT="1.5"))
    assert [state for state, _ in states] == ["ok", "warning"]


def test_a_running_stack_says_where_its_receiver_is(settings):
    loaded = settings(RQ_HOST="0.0.0.0", RQ_RECEIVER_PORT="8088")
    assert str(webhook_url(loaded, {})) == "http://127.0.0.1:8088/v1/notifications"
    told = {"RQ_WEBHOOK_URL": "http://10.0.0.1:1/v1/notifications", "RQ_WEBHOOK_TOKEN": "t"}
    assert str(webhook_url(loaded, told)) == told["RQ_WEBHOOK_URL"]
    assert webhook_token(loaded, told) == "t"


def test_the_configured_token_comes_before_the_stacks(settings):
    loaded = settings(RQ_WEBHOOK_TOKENS="harbor=first,second")
    assert webhook_token(loaded, {"RQ_WEBHOOK_TOKEN": "t"}) == "first"
    with pytest.raises(SettingsError):
        webhook_token(settings(RQ_WEBHOOK_TOKENS=""), {"RQ_WEBHOOK_TOKEN": "t"})


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "library", "state", "said"),
    [
        (ENDPOINT, True, "ok", "are sent"),
        (ENDPOINT, False, "warning", "not installed"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True, "warning", "http/protobuf"),
    ],
)
def test_traces_that_somebody_wants_are_sent_or_it_is_said_why_not(
    settings, environ, library, state, said
):
    findings = check(settings(**COMPLETE), COMPLETE | environ, library=library)
    (about,) = [item for item in findings if item.check == "traces"]
    assert about.state == state
    assert said in about.found


def test_traces_that_nobody_wants_are_not_mentioned(settings):
    assert "traces" not in [item.check for item in check(settings(**COMPLETE), COMPLETE)]
