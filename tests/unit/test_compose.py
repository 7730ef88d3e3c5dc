"""docker-compose.yml: it starts without editing, and no usable secret is in the repository."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


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
            assert not re.search("TOKEN|PASSWORD|SECRET$|KEY|DATABASE_URL", variable), name


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
