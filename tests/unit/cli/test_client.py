"""Whose word the command line takes for where the API is."""

import os
import shutil

import pytest

from cli.client import run_environment
from devstack.rundir import announce, withdraw

SAID = {"RQ_API_URL": "http://127.0.0.1:8081", "RQ_API_TOKEN": "with 'quotes' in it"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("RQ_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def env_file(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RQ_RUN_DIR", raising=False)
    (tmp_path / ".run").mkdir()
    path = tmp_path / ".run" / "env"
    announce(path, SAID, cache)
    return path


def test_what_a_stack_of_ours_announces_is_read_until_it_ends(env_file, cache):
    assert run_environment() == SAID
    assert env_file.stat().st_mode & 0o077 == 0
    withdraw(env_file, cache)
    assert run_environment() == {}


@pytest.mark.parametrize("umask", [0o077, 0o022])
@pytest.mark.parametrize("beside_a_stack", [False, True])
def test_a_file_that_came_with_a_checkout_sends_our_token_nowhere(
    env_file, cache, umask, beside_a_stack, capsys
):
    """Somebody else's `.run/env` in the folder of a build would name an address for CI's token.

    Whatever its mode, also where a stack of ours had its own there before.
    """
    if not beside_a_stack:
        withdraw(env_file, cache)
    before = os.umask(umask)
    try:
        env_file.unlink(missing_ok=True)
        env_file.write_text("RQ_API_URL=https://elsewhere.example\n")
    finally:
        os.umask(before)
    assert run_environment() == {}
    assert "is left alone" in capsys.readouterr().err


def test_a_copy_of_a_stacks_folder_is_not_its_stack(env_file, tmp_path, monkeypatch, capsys):
    shutil.copytree(tmp_path / ".run", tmp_path / "copy")
    monkeypatch.setenv("RQ_RUN_DIR", str(tmp_path / "copy"))
    assert run_environment() == {}
    assert "is left alone" in capsys.readouterr().err


def test_a_folder_that_is_no_stacks_is_none(tmp_path, monkeypatch, env_file):
    env_file.write_bytes(b"\xff\xfe")
    assert run_environment() == {}
    monkeypatch.setenv("RQ_RUN_DIR", str(tmp_path / "nowhere"))
    assert run_environment() == {}
