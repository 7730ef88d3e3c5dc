"""What a stack takes from the environment."""

import re
import subprocess
from pathlib import Path

import pytest

from devstack.config import Ports, StackConfig, default_cache_dir
from devstack.errors import StackError


def test_an_empty_environment_means_the_documented_defaults(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    config = StackConfig.from_environment({})

    assert config.run_dir == tmp_path / ".run"
    assert config.ports == Ports(receiver=8080, api=8081, grpc=9090, registry=5000, kafka=9092)
    assert config.external_registry_url is None


def test_ports_and_folder_can_be_moved(tmp_path):
    config = StackConfig.from_environment(
        {
            "RQ_RUN_DIR": str(tmp_path / "other"),
            "RQ_RECEIVER_PORT": "1",
            "RQ_API_PORT": "2",
            "RQ_GRPC_PORT": "3",
            "RQ_REGISTRY_PORT": "4",
            "RQ_KAFKA_PORT": "65535",
        }
    )

    assert config.run_dir == tmp_path / "other"
    assert config.ports == Ports(receiver=1, api=2, grpc=3, registry=4, kafka=65535)


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80 81", "²"])
def test_a_port_that_cannot_be_names_its_variable(value):
    with pytest.raises(StackError, match=rf"RQ_KAFKA_PORT must be .* not {re.escape(repr(value))}"):
        StackConfig.from_environment({"RQ_KAFKA_PORT": value})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RQ_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/registry-quota")),
        ({"XDG_CACHE_HOME": "relative"}, Path("~/.cache/registry-quota").expanduser()),
        ({}, Path("~/.cache/registry-quota").expanduser()),
    ],
)
def test_the_cache_is_the_users_own(environ, expected):
    assert default_cache_dir(environ) == expected


def test_a_stack_runs_our_program_in_whatever_folder_it_is_started(tmp_path):
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").touch()
    (tmp_path / "cli" / "main.py").write_text("print('of somebody else')\n")
    config = StackConfig(run_dir=tmp_path / "run", cache_dir=tmp_path)
    said = subprocess.run(
        [*config.program, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Usage:" in said.stdout
    assert "somebody else" not in said.stdout
