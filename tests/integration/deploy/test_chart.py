"""Helm lints and renders the chart, and Kubernetes' own schemas accept what comes of it.

Programs and schemas come from the PATH or the cache (`make helm-check` puts them there).
"""

import re
import shutil

import pytest
import yaml

from devstack.errors import AbsentError, StackError
from devstack.processes import run_tool
from quota.api.openapi import endpoints
from tests.support.live_api import live_api
from tools.helm import CHART, EXAMPLE, EXAMPLE_VALUES, KUBERNETES, program, render, schemas
from webhook_receiver.handlers import PATH

NEEDED = [
    'image={"repository":"registry.example.com/registry-quota"}',
    'existingSecret="registry-quota"',
    'kafka.bootstrap="kafka:9092"',
    'registry.url="http://registry:5000"',
]


async def had(tool):
    try:
        return await tool
    except AbsentError as error:
        pytest.skip(str(error))


@pytest.fixture
async def helm():
    return await had(program("helm"))


async def conform(manifests, version, folder):
    tool, known = await had(program("kubeconform")), await had(schemas())
    file = folder / "manifests.yaml"
    file.write_text(manifests)
    return await run_tool(
        [
            tool,
            "-summary",
            "-strict",
            *("-kubernetes-version", version),
            *(
                "-skip",
                "monitoring.coreos.com/v1/ServiceMonitor",
            ),  # the operator's, not Kubernetes'
            "-schema-location",
            f"{known}/v{version}-local-strict/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
            file,
        ],
        what="kubeconform",
    )


async def test_helm_finds_nothing_to_complain_of(helm):
    printed = await run_tool(
        [
            *(helm, "lint", "--strict", CHART, "--values", EXAMPLE_VALUES),
            *("--kube-version", KUBERNETES[0]),
        ],
        what="helm lint",
    )
    assert "0 chart(s) failed" in printed


async def test_the_example_is_what_the_chart_renders(helm):
    assert await render(EXAMPLE_VALUES) == EXAMPLE.read_text(), "run `make helm-check`"


@pytest.mark.parametrize("version", KUBERNETES)
async def test_kubernetes_knows_every_field(helm, version, tmp_path):
    everything = EXAMPLE.read_text() + await render(None, *NEEDED)
    printed = await conform(everything, version, tmp_path)
    assert "Invalid: 0, Errors: 0" in printed
    assert "Valid: 0" not in printed


async def test_a_field_that_kubernetes_does_not_know_is_found(helm, tmp_path):
    misspelt = EXAMPLE.read_text().replace("livenessProbe", "livenesProbe")
    with pytest.raises(StackError, match="livenesProbe"):
        await conform(misspelt, KUBERNETES[-1], tmp_path)


@pytest.mark.parametrize(
    "missing", ["image.repository", "existingSecret", "kafka.bootstrap", "registry.url"]
)
async def test_a_value_that_has_no_default_is_asked_for_by_name(helm, missing):
    given = [setting for setting in NEEDED if setting.split("=")[0] != missing.split(".repo")[0]]
    with pytest.raises(StackError, match=missing):
        await render(None, *given)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('settings={"RQ_API_TOKEN":"in plain sight"}', "RQ_API_TOKEN"),
        ('settings={"LOG_LEVEL":"info"}', "LOG_LEVEL"),
        ('settings={"RQ_DEFAULT_QOTA_BYTES":1}', "RQ_DEFAULT_QOTA_BYTES"),
        ('settings={"RQ_KAFKA_BOOTSTRAP":"another:9092"}', "RQ_KAFKA_BOOTSTRAP"),
        ('extraEnv=[{"name":"RQ_LOG_LEVEL","value":"debug"}]', "extraEnv"),
        ("consumer.replica=3", "replica"),
        ('api.replicas="two"', "replicas"),
    ],
)
async def test_a_value_that_means_nothing_is_refused_by_name(helm, setting, named):
    with pytest.raises(StackError, match=named):
        await render(None, *NEEDED, setting)


async def test_what_is_switched_off_is_not_there(helm):
    off = ["migrate", "podDisruptionBudget", "networkPolicy"]
    printed = await render(None, *NEEDED, *(f"{part}.enabled=false" for part in off))
    for kind in ("Job", "PodDisruptionBudget", "NetworkPolicy", "Ingress", "ServiceMonitor"):
        assert f"kind: {kind}\n" not in printed
    assert "kind: StatefulSet\n" in printed
    assert "https" not in printed.lower()


async def test_a_number_arrives_as_it_was_written(helm):
    printed = await render(
        None,
        *NEEDED,
        'settings={"RQ_DEFAULT_QUOTA_BYTES":21474836480,"RQ_ACK_TIMEOUT":0.5,"RQ_LOG_LEVEL":"info"}',
    )
    for written in ("21474836480", "0.5", "info"):
        assert f'value: "{written}"\n' in printed


async def test_names_leave_room_for_what_kubernetes_appends(helm):
    """A StatefulSet's name and a hash of 10 are a label of its pods, 63 characters long at most."""
    longest = "a-release-name-that-is-as-long-as-helm-lets-it-be-xyz"
    assert len(longest) == 53
    printed = await render(None, *NEEDED, release=longest)
    objects = [item for item in yaml.safe_load_all(printed) if item]
    (consumer,) = [item for item in objects if item["kind"] == "StatefulSet"]
    assert len(consumer["metadata"]["name"]) + len("-0123456789") <= 63
    assert max(len(item["metadata"]["name"]) for item in objects) <= 63


@pytest.mark.parametrize("release", ["registry-quota", "prod"])
async def test_certificates_are_verified_by_the_services_names(helm, release):
    printed = await render(
        None, *NEEDED, 'tlsSecret="tls"', "serviceMonitor.enabled=true", release=release
    )
    objects = [item for item in yaml.safe_load_all(printed) if item]
    services = {item["metadata"]["name"] for item in objects if item["kind"] == "Service"}
    monitors = [item for item in objects if item["kind"] == "ServiceMonitor"]
    asked = {item["spec"]["endpoints"][0]["tlsConfig"]["serverName"] for item in monitors}
    assert asked == services


async def test_the_ingress_lets_in_every_address_but_those_of_operations(pool):
    """`/metrics` tells who stores how much (docs/security.md)."""
    (ingress,) = [
        item
        for item in yaml.safe_load_all(EXAMPLE.read_text())
        if item["kind"] == "Ingress" and item["metadata"]["name"].endswith("-api")
    ]
    (rule,) = ingress["spec"]["rules"]
    paths: dict[str, set[str]] = {"Exact": set(), "Prefix": set()}
    for path in rule["http"]["paths"]:
        paths[path["pathType"]].add(path["path"])
    async with live_api(pool) as api:
        addresses = {item.path for item in endpoints(api.app)}
    let_in = {
        path
        for path in addresses
        if path in paths["Exact"] or f"/{path.split('/')[1]}" in paths["Prefix"]
    }
    assert addresses - let_in == {"/healthz", "/readyz", "/metrics"}
    assert paths["Exact"] <= addresses
    assert paths["Prefix"] <= {f"/{path.split('/')[1]}" for path in addresses}


@pytest.mark.parametrize("tls", [False, True])
async def test_the_notes_lead_a_registry_to_the_receiver(helm, tmp_path, tls):
    """Helm shows NOTES.txt only of an installation: here it is a manifest's text."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    notes = (chart / "templates/NOTES.txt").read_text()
    (chart / "templates/notes.yaml").write_text(
        f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}notes: {{{{ include "notes" . | quote }}}}'
    )
    settings = [*NEEDED, 'tlsSecret="tls"'] if tls else NEEDED
    objects = list(yaml.safe_load_all(await render(None, *settings, release="prod", chart=chart)))
    (said,) = [item["notes"] for item in objects if item and "notes" in item]
    services = {
        item["metadata"]["name"]: item["spec"]["ports"][0]["port"]
        for item in objects
        if item and item.get("kind") == "Service"
    }
    found = re.search(r"--webhook-url (https?)://([\w-]+)\.quota\.svc:(\d+)(/\S+)", said)
    assert found, said
    scheme, service, port, path = found.groups()
    assert (scheme, path) == ("https" if tls else "http", PATH)
    assert services[service] == int(port)
    pods = {
        f"deploy/{item['metadata']['name']}"
        for item in objects
        if item and item.get("kind") == "Deployment"
    }
    assert set(re.findall(r"deploy/[\w-]+", said)) == pods
    assert "doctor --webhook-url" in said
    assert "registry-quota reconcile" in said
