"""Which pulls say that an image is used."""

import json

import pytest

from consumer.translate import agents_like, facts_of
from ledger.facts import ManifestPulled, ManifestPushed
from registry.notifications import decode_event
from runtime.settings import Settings


def told(
    agent: str = "containerd/2.0",
    action: str = "pull",
    ignored: tuple[str, ...] = (),
    **request: str,
):
    event = {
        "id": "6f4e3c8a-3b7e-4b7b-9d5e-0d2f1a0c9b11",
        "timestamp": "2026-11-30T10:00:00Z",
        "action": action,
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "repository": "acme/api",
            "digest": "sha256:" + "ab" * 32,
            "tag": "1",
            "size": 7,
        },
        "request": {"id": "r", "useragent": agent, **request},
    }
    return facts_of("default", decode_event(json.dumps(event).encode()), agents_like(ignored))


def test_a_get_is_a_pull_and_a_head_is_none():
    assert isinstance(told(method="GET"), ManifestPulled)
    assert told(method="HEAD") is None
    assert told(method="head") is None


def test_a_pull_whose_method_was_not_told_counts():
    assert isinstance(told(), ManifestPulled)
    assert isinstance(told(method=""), ManifestPulled)


@pytest.mark.parametrize("agent", ["trivy/0.58.1", "Trivy/0.58.1 (amd64)", "my scanner (nightly)"])
def test_agents_on_the_list_use_nothing(agent: str):
    assert told(agent, method="GET", ignored=("trivy/*", "*scanner*")) is None


@pytest.mark.parametrize("agent", ["", "docker/27.1", "nottrivy/1", "trivy"])
def test_a_glob_means_the_whole_user_agent(agent: str):
    assert isinstance(told(agent, method="GET", ignored=("trivy/*",)), ManifestPulled)


def test_what_an_agent_on_the_list_pushes_is_a_push_like_any_other():
    pushed = told("trivy/0.58.1", "push", ignored=("*",), method="PUT")
    assert isinstance(pushed, ManifestPushed)


def test_the_list_is_a_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RQ_IGNORED_PULL_AGENTS", "trivy/*, *watchtower*,")
    assert Settings.load().ignored_pull_agents == ("trivy/*", "*watchtower*")
    monkeypatch.delenv("RQ_IGNORED_PULL_AGENTS")
    assert Settings.load().ignored_pull_agents == ()
