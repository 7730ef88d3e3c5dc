"""docker-compose.yml: it starts without editing, every setting reaches the programs, and no usable
secret is in the repository."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
PROJECT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
SETTINGS = {f"RQ_{name.upper()}": field for name, field in Settings.model_fields.items()}
SECRET = {name for name, field in SETTINGS.items() if "SecretStr" in str(field.annotation)}
ELSEWHERE = {
    # Addresses within the project: the image has them, what is published is chosen by `ports`.
    *("RQ_HOST", "RQ_RECEIVER_PORT", "RQ_API_PORT", "RQ_GRPC_PORT", "RQ_CONSUMER_METRICS_PORT"),
    # Another for each process.
    "RQ_KAFKA_GROUP_INSTANCE",
    # Files, which somebody has to mount.
    *("RQ_CA_FILE", "RQ_TLS_CERT", "RQ_TLS_KEY", "RQ_TEMPORAL_TLS_CERT", "RQ_TEMPORAL_TLS_KEY"),
    *("RQ_KAFKA_SSL_CAFILE", "RQ_KAFKA_SSL_CERTFILE", "RQ_KAFKA_SSL_KEYFILE"),
}
OURS = ("migrate", "receiver", "consumer", "api", "demo")


def test_nothing_has_to_be_set_first():
    variables = re.findall(r"(?<!\$)\$\{([^}]*)\}", TEXT)
    assert variables
    assert [name for name in variables if ":-" not in name] == []


def test_no_secret_is_given_a_value():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if variable.endswith("__FILE"):
                assert value.startswith("/secrets/")
                continue
            if value is None:  # the shell's or nobody's
                assert variable not in SECRET
                continue
            assert not re.search("TOKEN|PASSWORD|SECRET$|KEY|DATABASE_URL", variable), name


@pytest.mark.parametrize("service", OURS)
def test_every_setting_that_is_no_secret_and_no_file_reaches_a_program(service):
    passed = {name for name in SERVICES[service]["environment"] if name.startswith("RQ_")}
    assert passed - {"RQ_SECRETS_DIR", "RQ_WEBHOOK_URL"} == SETTINGS.keys() - SECRET - ELSEWHERE


@pytest.mark.parametrize("service", OURS)
def test_the_variables_of_traces_reach_a_program(service):
    wanted = {
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"),
        *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_RESOURCE_ATTRIBUTES"),
    }
    assert wanted <= SERVICES[service]["environment"].keys()


def test_a_setting_has_its_default_in_the_code_alone():
    given = {name for name, value in PROJECT["x-settings"].items() if value is not None}
    assert given == {
        *("RQ_SECRETS_DIR", "RQ_KAFKA_BOOTSTRAP", "RQ_REGISTRY_URL", "RQ_API_URL"),
        *("RQ_RECEIVER_URL", "RQ_WEBHOOK_URL", "RQ_LOG_FORMAT"),
    }


def test_everything_is_published_on_the_loopback_address_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_program_of_ours_is_nobody_with_nothing_to_write_to():
    image = SERVICES["api"]["image"]
    ours = [service for service in SERVICES.values() if service["image"] == image]
    assert len(ours) == len({"secrets", "migrate", "receiver", "consumer", "api", "demo"})
    for service in ours:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service, "the image says which"


def test_without_a_profile_neither_demo_nor_monitoring_starts():
    profiles = {
        name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
    }
    assert profiles == {"demo": ["demo"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}


def test_compose_accepts_it():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False).returncode:
        pytest.skip("no `docker compose` here")
    checked = subprocess.run(
        [
            *(docker, "compose", "-f", ROOT / "docker-compose.yml", "--profile", "*"),
            *("config", "-q"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
