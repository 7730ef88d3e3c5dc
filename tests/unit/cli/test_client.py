"""Whose word the command line takes for where the API is."""

import pytest

from cli.client import run_environment


@pytest.fixture
def env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RQ_RUN_DIR", raising=False)
    (tmp_path / ".run").mkdir()
    path = tmp_path / ".run" / "env"
    path.write_text("RQ_API_URL=http://127.0.0.1:8081\n")
    return path


def test_the_file_of_a_running_stack_is_read(env_file):
    env_file.chmod(0o600)
    assert run_environment() == ["RQ_API_URL=http://127.0.0.1:8081"]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o622])
def test_a_file_that_came_with_a_checkout_sends_our_token_nowhere(env_file, mode, capsys):
    """Somebody else's `.run/env` in the folder of a build would name an address for CI's token."""
    env_file.chmod(mode)
    assert run_environment() == []
    assert "is left alone" in capsys.readouterr().err


def test_a_folder_that_is_no_stacks_is_none(tmp_path, monkeypatch, env_file):
    env_file.chmod(0o600)
    env_file.write_bytes(b"\xff\xfe")
    assert run_environment() == []
    monkeypatch.setenv("RQ_RUN_DIR", str(tmp_path / "nowhere"))
    assert run_environment() == []
