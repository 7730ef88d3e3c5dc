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
from tests.support.secrets_read import secrets_read

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


PROGRAMS = {
    "migrate": ("cli.migrate", "cli.options"),
    "receiver": ("webhook_receiver.wiring", None),
    "consumer": ("consumer.wiring", None),
    "api": ("quota.wiring", None),
    "demo": ("cli.demo.command", None),
}
"""Service → where its program begins, and what of it only completes names in a shell."""


def shares():
    """Service → what the service `secrets` puts into its volume."""
    (script,) = SERVICES["secrets"]["command"]
    given = re.findall(r"^give (\w+) (.*)$", script, re.MULTILINE)
    assert len(given) == len(dict(given))
    return {service: set(names.split()) for service, names in given}


@pytest.mark.parametrize("service", OURS)
def test_a_service_of_ours_gets_the_secrets_that_its_code_reads_and_no_others(service):
    module, without = PROGRAMS[service]
    assert shares()[service] == secrets_read(module, without=without)


def test_any_other_service_gets_the_secrets_that_stand_in_its_start_and_no_others():
    others = SERVICES.keys() - {*OURS, "secrets"}
    for name in others:
        said = re.findall(r"/secrets/([A-Z_]+)", yaml.safe_dump(SERVICES[name]))
        assert shares().get(name, set()) == set(said), name


def test_nobody_sees_the_secrets_of_another():
    for name, service in SERVICES.items():
        mounted = [volume for volume in service.get("volumes", ()) if volume.startswith("secrets")]
        if name == "secrets":
            wanted = ["secrets:/secrets", *(f"secrets-of-{to}:/shares/{to}" for to in shares())]
        else:
            wanted = [f"secrets-of-{name}:/secrets:ro"] if name in shares() else []
        assert sorted(mounted) == sorted(wanted), name
        assert "env_file" not in service
        assert "secrets" not in service
    assert {name for name in PROJECT["volumes"] if name.startswith("secrets")} == {
        "secrets",
        *(f"secrets-of-{to}" for to in shares()),
    }


def test_what_is_given_is_all_that_there_is_and_what_was_taken_away_is_gone(tmp_path):
    """The very script of the service, in a folder of this machine."""
    (script,) = SERVICES["secrets"]["command"]
    script = script.replace("$$", "$").replace("cd /secrets", f"cd {tmp_path}/secrets")
    script = script.replace("/shares/", f"{tmp_path}/shares/")
    for folder in ("secrets", *(f"shares/{name}" for name in shares())):
        (tmp_path / folder).mkdir(parents=True)

    def run():
        shell = ["sh", "-euc", script]
        assert subprocess.run(shell, check=False, capture_output=True).returncode == 0
        return {
            name: {file.name: file.read_text() for file in (tmp_path / "shares" / name).iterdir()}
            for name in shares()
        }

    first = run()
    made = {file.name for file in (tmp_path / "secrets").iterdir()}
    for name, names in shares().items():
        assert first[name].keys() == names & made
    assert run() == first
    (tmp_path / "secrets" / "RQ_REGISTRY_PASSWORD").write_text("added")
    (tmp_path / "secrets" / "RQ_WEBHOOK_TOKENS").write_text("changed")
    (tmp_path / "shares" / "receiver" / "RQ_DATABASE_URL").write_text("of an earlier release")
    second = run()
    assert second["consumer"]["RQ_REGISTRY_PASSWORD"] == "added"
    assert "RQ_REGISTRY_PASSWORD" not in second["receiver"]
    assert second["receiver"] == {"RQ_WEBHOOK_TOKENS": "changed"}
    (tmp_path / "secrets" / "RQ_REGISTRY_PASSWORD").unlink()
    assert run()["consumer"].keys() == first["consumer"].keys()


def test_the_image_has_a_folder_for_each_volume_that_is_written():
    """A named volume takes its owner from the folder that it is first mounted at."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"/shares/(\w+)", dockerfile)) == shares().keys()


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
