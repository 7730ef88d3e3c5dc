"""The Helm chart, by what it renders (deploy/helm/example.yaml; that it does, Helm itself says in
tests/integration/deploy/test_chart.py)."""

import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from jsonschema_rs import Draft202012Validator
from pydantic import SecretStr

from cli.serve import Role
from runtime.lifecycle import STOP_DEADLINE
from runtime.settings import Settings
from tests.support.secrets_read import secrets_read
from tools.helm import CHART, EXAMPLE, EXAMPLE_VALUES, ROOT
from webhook_receiver.handlers import PATH

OBJECTS: list[dict[str, Any]] = [
    item for item in yaml.safe_load_all(EXAMPLE.read_text()) if item is not None
]
PODS = {
    item["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"]["template"]
    for item in OBJECTS
    if "template" in item.get("spec", {})
}
CONTAINERS = {role: pod["spec"]["containers"][0] for role, pod in PODS.items()}
EXAMPLE_SETTINGS = yaml.safe_load(EXAMPLE_VALUES.read_text())["settings"]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
PORT_SETTINGS = {
    "receiver": {"http": "RQ_RECEIVER_PORT"},
    "consumer": {"metrics": "RQ_CONSUMER_METRICS_PORT"},
    "api": {"http": "RQ_API_PORT", "grpc": "RQ_GRPC_PORT"},
    "migrate": {},
}


def of_kind(kind):
    return [item for item in OBJECTS if item["kind"] == kind]


def environment(role):
    return {item["name"]: item.get("value") for item in CONTAINERS[role]["env"]}


def secrets(role):
    """Files in the pod's RQ_SECRETS_DIR → keys of Secrets."""
    volumes = {volume["name"]: volume for volume in PODS[role]["spec"]["volumes"]}
    return {
        item["path"]: item["key"]
        for source in volumes["secrets"]["projected"]["sources"]
        for item in source["secret"]["items"]
    }


def selected(selector):
    """The roles whose pods have these labels."""
    wanted = selector.items()
    return [role for role, pod in PODS.items() if wanted <= pod["metadata"]["labels"].items()]


def test_its_version_is_that_of_the_project():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])


def test_there_is_a_pod_for_each_role_that_a_pipeline_has():
    assert set(PODS) == {"receiver", "consumer", "api", "migrate"}
    assert CONTAINERS["migrate"]["args"] == ["migrate"]
    for role in ("receiver", "consumer", "api"):
        assert CONTAINERS[role]["args"] == ["serve", Role(role).value]


@pytest.mark.parametrize("role", PODS)
def test_a_pod_is_not_root_writes_nowhere_but_tmp_and_knows_no_cluster(role):
    pod, container = PODS[role]["spec"], CONTAINERS[role]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001  # as in the Dockerfile
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {item["mountPath"] for item in container["volumeMounts"] if not item.get("readOnly")}
    assert writable == {"/tmp"}


@pytest.mark.parametrize("role", PODS)
def test_memory_is_bounded_and_processor_time_is_not(role):
    resources = CONTAINERS[role]["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


@pytest.mark.parametrize("role", PODS)
def test_every_variable_is_a_setting_stands_once_and_none_is_secret(role):
    fields = {f"RQ_{name.upper()}": field for name, field in Settings.model_fields.items()}
    names = [item["name"] for item in CONTAINERS[role]["env"]]
    assert len(names) == len(set(names))
    for name in names:
        if name in {"RQ_SECRETS_DIR", "RQ_WEBHOOK_URL"} or name.startswith("OTEL_"):
            continue
        assert name in fields
        assert "SecretStr" not in str(fields[name].annotation)


@pytest.mark.parametrize(
    ("role", "module", "without"),
    [
        ("receiver", "webhook_receiver.wiring", None),
        ("consumer", "consumer.wiring", None),
        ("api", "quota.wiring", None),
        ("migrate", "cli.migrate", "cli.options"),  # that completes names in a shell
    ],
)
def test_a_role_gets_the_secrets_that_its_code_reads_and_no_others(role, module, without):
    assert secrets(role).keys() == secrets_read(module, without=without)


@pytest.mark.parametrize("role", PODS)
def test_a_pod_has_no_other_secret_than_its_own_and_the_key_of_its_doors(role):
    pod = PODS[role]["spec"]
    doors = {"tls"} if "ports" in CONTAINERS[role] else set()
    mounted = {item["name"] for item in CONTAINERS[role]["volumeMounts"]}
    # `kafka` is our certificate at the brokers, `ca` no secret.
    assert mounted == {"tmp", "secrets", "kafka", "ca"} | doors
    assert {volume["name"] for volume in pod["volumes"]} == mounted
    assert ("RQ_TLS_KEY" in environment(role)) == bool(doors)
    # What an operator adds is the operator's.
    added = {item["name"] for item in yaml.safe_load(EXAMPLE_VALUES.read_text())["extraEnv"]}
    from_secrets = {
        item["name"]
        for item in CONTAINERS[role]["env"]
        if "secretKeyRef" in item.get("valueFrom", {})
    }
    assert from_secrets <= added
    assert "envFrom" not in CONTAINERS[role]
    assert len(pod["containers"]) == 1
    assert "initContainers" not in pod


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("RQ_LOG_LEVEL", True),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", True),
        ("OTEL_EXPORTER_OTLP_HEADERS", False),  # mostly a token
        ("RQ_API_TOKEN", False),
        ("PATH", False),
    ],
)
def test_settings_are_ours_and_those_of_traces(name, taken):
    schema = SCHEMA["properties"]["settings"]
    assert Draft202012Validator(schema).is_valid({name: "x"}) == taken


def test_settings_take_what_is_neither_secret_nor_a_value_of_the_chart():
    """So a misspelt name is refused, and none is told to a pod twice."""
    owned = {name for role in PODS for name in environment(role)} - EXAMPLE_SETTINGS.keys()
    # A file that nothing mounts (caSecret is), and the worker that no pod runs.
    elsewhere = {"RQ_KAFKA_SSL_CAFILE", "RQ_GRPC_TARGET"}
    wanted = {
        f"RQ_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if SecretStr.__name__ not in str(field.annotation) and not name.startswith("temporal_")
    }
    (ours,) = [
        choice["enum"]
        for choice in SCHEMA["properties"]["settings"]["propertyNames"]["anyOf"]
        if "enum" in choice
    ]
    assert set(ours) == wanted - owned - elsewhere


def test_a_database_user_for_each_process_is_a_key_of_the_secret():
    """Migrate's is the default, the others' are named in example-values.yaml (docs/security.md)."""
    assert {role: secrets(role).get("RQ_DATABASE_URL") for role in PODS} == {
        "receiver": None,
        "consumer": "consumer-database",
        "api": "api-database",
        "migrate": "RQ_DATABASE_URL",
    }


@pytest.mark.parametrize("role", ["receiver", "consumer", "api"])
def test_a_key_of_the_database_is_taken_only_where_one_is_used(role):
    values = Draft202012Validator(SCHEMA)
    used = "RQ_DATABASE_URL" in secrets(role)
    assert values.is_valid({role: {"databaseKey": "database"}}) == used


@pytest.mark.parametrize("role", ["receiver", "consumer", "api"])
def test_a_pod_has_time_to_stop_by_itself(role):
    pod, container = PODS[role]["spec"], CONTAINERS[role]
    before = container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    waits = float(before["exec"]["command"][1])
    # All of a process ends within 6 s of the signal; twice that for a busy node.
    assert pod["terminationGracePeriodSeconds"] >= waits + 2 * (STOP_DEADLINE + 2)


@pytest.mark.parametrize("role", ["receiver", "consumer", "api"])
def test_probes_ask_what_answers(role):
    container = CONTAINERS[role]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    told = {name: int(environment(role)[setting]) for name, setting in PORT_SETTINGS[role].items()}
    assert ports == told
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["scheme"] == "HTTPS"  # example-values.yaml names a certificate
        paths[probe] = asked["path"]
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }


def test_services_lead_to_ports_of_pods():
    assert len(of_kind("Service")) == 3
    for service in of_kind("Service"):
        (role,) = selected(service["spec"]["selector"])
        assert service["metadata"]["name"].endswith(role)
        names = {port["name"] for port in CONTAINERS[role]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_disruption_budgets_and_policies_are_for_one_role_each():
    for kind, roles in (
        ("PodDisruptionBudget", ["receiver", "consumer", "api"]),
        ("NetworkPolicy", ["receiver", "consumer", "api", "migrate"]),
    ):
        key = "selector" if kind == "PodDisruptionBudget" else "podSelector"
        found = [selected(item["spec"][key]["matchLabels"]) for item in of_kind(kind)]
        assert sorted(found) == sorted([role] for role in roles), kind


def test_a_policy_opens_ports_that_its_pods_have():
    for policy in of_kind("NetworkPolicy"):
        (role,) = selected(policy["spec"]["podSelector"]["matchLabels"])
        names = {port["name"] for port in CONTAINERS[role].get("ports", ())}
        opened = {
            port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]
        }
        assert opened == names


def test_the_api_may_ask_the_receiver_how_it_is():
    address = environment("api")["RQ_RECEIVER_URL"]
    (service,) = [
        item
        for item in of_kind("Service")
        if address == f"https://{item['metadata']['name']}:{item['spec']['ports'][0]['port']}"
    ]
    assert selected(service["spec"]["selector"]) == ["receiver"]
    policies = {
        selected(policy["spec"]["podSelector"]["matchLabels"])[0]: policy["spec"]
        for policy in of_kind("NetworkPolicy")
    }
    let_in = [
        selected(peer["podSelector"]["matchLabels"])
        for rule in policies["receiver"]["ingress"]
        for peer in rule["from"]
        if "podSelector" in peer
    ]
    assert let_in == [["api"]]
    let_out = [
        selected(peer["podSelector"]["matchLabels"])
        for rule in policies["api"]["egress"]
        for peer in rule.get("to", ())
    ]
    assert all("receiver" in roles for roles in let_out)
    assert let_out


def test_what_the_settings_name_is_let_out():
    """The egress of example-values.yaml leads to every address that the example names."""
    asked = {
        int(found)
        for value in environment("consumer").values()
        for found in re.findall(r"\.svc:(\d+)", str(value))
    }
    assert len(asked) >= 3
    for policy in of_kind("NetworkPolicy"):
        out = {
            port["port"]
            for rule in policy["spec"]["egress"]
            for port in rule.get("ports", ())
            if port["protocol"] == "TCP"
        }
        assert asked <= out, policy["metadata"]["name"]
        assert 53 in out


def test_only_deliveries_come_in_from_outside_and_as_large_as_they_may_be():
    by_name = {item["metadata"]["name"]: item for item in of_kind("Ingress")}
    ingress = by_name["registry-quota-receiver"]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["pathType"]) == (PATH, "Exact")
    megabytes = Settings.model_fields["drain_body_bytes"].default // 2**20
    told = ingress["metadata"]["annotations"]
    assert told["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{megabytes}m"
    for item in by_name.values():
        told = item["metadata"]["annotations"]
        assert told["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"


def test_every_role_is_scraped():
    services = {item["metadata"]["name"]: item for item in of_kind("Service")}
    for monitor in of_kind("ServiceMonitor"):
        service = services.pop(monitor["metadata"]["name"])
        labels = monitor["spec"]["selector"]["matchLabels"]
        assert labels.items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["path"] == "/metrics"
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert services == {}


def test_the_schema_changes_before_the_pods_do():
    (job,) = of_kind("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_a_consumer_that_comes_back_has_its_name_again():
    (consumer,) = of_kind("StatefulSet")
    named = {item["name"]: item for item in CONTAINERS["consumer"]["env"]}
    field = named["RQ_KAFKA_GROUP_INSTANCE"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.name"
    assert consumer["spec"]["serviceName"] in {s["metadata"]["name"] for s in of_kind("Service")}
