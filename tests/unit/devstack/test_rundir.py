"""The folder of a stack: what is kept, what is secret, who holds it."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from devstack.errors import StackError
from devstack.rundir import RunDir, parse_env, render_env, write_file


@pytest.fixture
def run_dir(tmp_path):
    folder = RunDir(tmp_path / "run")
    folder.create()
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_long_and_differ_and_stay(run_dir):
    first, other = run_dir.secret("webhook_token"), run_dir.secret("api_token")

    assert re.fullmatch("[0-9a-f]{48}", first)
    assert first != other
    assert RunDir(run_dir.root).secret("webhook_token") == first


def test_what_is_secret_can_be_read_by_its_owner_only(run_dir):
    run_dir.secret("api_token")
    os.close(run_dir.open_log("registry"))
    write_file(run_dir.env, render_env({"RQ_API_TOKEN": "x"}), mode=0o600)

    assert mode(run_dir.root / "state.json") == 0o600
    assert mode(run_dir.log("registry")) == 0o600
    assert mode(run_dir.logs) == 0o700
    assert mode(run_dir.env) == 0o600


def test_write_file_narrows_the_mode_of_an_existing_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)

    write_file(path, "new", mode=0o600)

    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_holder_is_told_who_holds_the_folder_and_how_to_stop_it(run_dir):
    with run_dir.locked():
        assert run_dir.is_locked()
        with (
            pytest.raises(StackError, match=rf"already running in .*kill {os.getpid()}"),
            RunDir(run_dir.root).locked(),
        ):
            pass
    assert not run_dir.is_locked()
    with RunDir(run_dir.root).locked():
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"cannot create .* RQ_RUN_DIR"):
        RunDir(tmp_path / "file" / "run").create()


def test_a_damaged_state_says_what_to_do(run_dir):
    (run_dir.root / "state.json").write_text("{")
    with pytest.raises(StackError, match="remove the folder"):
        run_dir.secret("api_token")


def test_a_big_log_is_moved_aside(run_dir, monkeypatch):
    monkeypatch.setattr("devstack.rundir.LOG_KEEP_BYTES", 3)
    run_dir.log("kafka").write_text("long")

    os.close(run_dir.open_log("kafka"))

    assert run_dir.log("kafka").read_text() == ""
    assert (run_dir.logs / "kafka.log.1").read_text() == "long"


def test_a_shell_and_we_ourselves_read_the_env_file_alike(tmp_path):
    values = {"RQ_A": "postgresql://u:p@127.0.0.1:1/db", "RQ_B": 'it\'s $HOME; `x` "y"', "RQ_C": ""}
    path = tmp_path / "env"
    path.write_text(render_env(values))

    shell = subprocess.run(
        ["sh", "-c", f'. {path}; printf "%s\\n" "$RQ_A" "$RQ_B" "$RQ_C"'],
        capture_output=True,
        text=True,
        check=True,
    )

    assert shell.stdout.split("\n")[:3] == list(values.values())
    assert parse_env(path.read_text()) == values
    assert path.read_text().startswith("RQ_A=postgresql://u:p@127.0.0.1:1/db\n")
