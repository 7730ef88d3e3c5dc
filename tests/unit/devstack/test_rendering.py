"""Configuration files and texts that the stack writes."""

import json
import re
from pathlib import Path

from devstack.jars import LOCK_FILE, lock_text, locked_jars
from devstack.kafka import server_properties
from devstack.processes import exit_text, last_lines
from devstack.registry import configuration, how_to_connect
from runtime.settings import MESSAGE_MAX_BYTES


def test_kafka_takes_messages_of_nine_mebibytes_on_loopback_only():
    values = server_properties(data=Path("/data"), port=9092, controller_port=9093)

    for limit in (
        "message.max.bytes",
        "replica.fetch.max.bytes",
        "replica.fetch.response.max.bytes",
        "socket.request.max.bytes",
    ):
        assert int(values[limit]) > MESSAGE_MAX_BYTES, limit
    assert values["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert values["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
    assert values["auto.create.topics.enable"] == "false"


def test_every_replica_count_of_kafka_fits_one_node():
    values = server_properties(data=Path("/data"), port=1, controller_port=2)
    counts = {
        key: value for key, value in values.items() if re.search(r"replication|min\.isr", key)
    }

    assert counts
    assert set(counts.values()) == {"1"}


def test_the_registry_deletes_and_notifies_with_references_and_token():
    values = configuration(
        data=Path("/data"),
        port=5000,
        secret="s",
        notification_url="http://127.0.0.1:8080/v1/notifications",
        token="t",
    )

    assert values["http"]["addr"] == "127.0.0.1:5000"
    assert values["storage"]["delete"] == {"enabled": True}
    assert values["notifications"]["events"] == {"includereferences": True}
    (endpoint,) = values["notifications"]["endpoints"]
    assert endpoint["url"] == "http://127.0.0.1:8080/v1/notifications"
    assert endpoint["headers"] == {"Authorization": ["Bearer t"]}
    assert endpoint["timeout"] == "1s"


def test_without_a_receiver_the_registry_notifies_nobody():
    values = configuration(data=Path("/d"), port=1, secret="s", notification_url=None, token="")
    assert "notifications" not in values


def test_connecting_ones_own_registry_shows_endpoint_token_and_address():
    text = how_to_connect("http://127.0.0.1:8080/v1/notifications", "secret-token", 5000)

    endpoint = json.loads(text.partition("endpoints: [")[2].partition("]\n")[0])
    assert endpoint["headers"]["Authorization"] == ["Bearer secret-token"]
    assert "127.0.0.1:5000" in text
    assert "RQ_EXTERNAL_REGISTRY_URL" in text


def test_every_jar_is_locked_by_version_and_hash():
    jars = locked_jars(lock_text())

    assert len(jars) > 40
    assert len({coordinate.rsplit(":", 1)[0] for coordinate, _ in jars}) == len(jars)
    for coordinate, digest in jars:
        assert re.fullmatch(r"[\w.-]+:[\w.-]+:\d[\w.-]*", coordinate), LOCK_FILE
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_one_version_of_kafka_is_locked():
    versions = {
        coordinate.rsplit(":", 1)[1]
        for coordinate, _ in locked_jars(lock_text())
        if coordinate.startswith("org.apache.kafka:")
    }
    assert len(versions) == 1


def test_return_codes_as_words():
    assert exit_text(0) == "exit code 0"
    assert exit_text(-9) == "SIGKILL"
    assert exit_text(-250) == "signal 250"


def test_last_lines_skips_empty_ones():
    assert last_lines("a\n\nb \n\nc\n", 2) == "b\n    c"
    assert last_lines("", 3) == ""
