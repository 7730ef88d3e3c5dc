"""Wheel and source distribution: everything that a role needs, nothing of a working copy."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tools.release_notes import project_version

ROOT = Path(__file__).parents[3]
VERSION = project_version((ROOT / "pyproject.toml").read_text())


def build(source: Path, target: Path, kind: str) -> Path:
    """What `python -m build` makes, by the same backend, from what is installed here."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [made] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def test_the_wheel_gives_the_command_and_runs_from_where_it_was_installed(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv = ['registry-quota', 'version'];"
        "from importlib.metadata import entry_points;"
        "[command] = entry_points(group='console_scripts', name='registry-quota');"
        "main = command.load(); print(sys.modules[main.__module__].__file__); main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    module, version = done.stdout.split()
    assert Path(module).is_relative_to(tmp_path)
    assert version == VERSION


def test_the_wheel_holds_every_file_of_every_room(wheel):
    rooms = "alerts cli client/registry_quota consumer devstack ledger migrations proto/idp quota"
    rooms += " registry runtime temporal_worker webhook_receiver"
    packed = contents(wheel)
    for room in rooms.split():
        top = (ROOT / room).parent if "/" in room else ROOT
        kept = {
            path.relative_to(top).as_posix()
            for path in (ROOT / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert kept
        assert kept - packed.keys() == set(), room
    assert f"registry_quota-{VERSION}.dist-info/licenses/LICENSE" in packed


def test_the_source_distribution_builds_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt = build(tmp_path / f"registry_quota-{VERSION}", tmp_path / "dist", "wheel")
    assert contents(rebuilt) == contents(wheel)


def versioned(*which: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *which], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git working copy")
    return set(listed.stdout.split())


def test_the_source_distribution_holds_what_is_versioned_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames()} - {"PKG-INFO"}
    assert packed - versioned("--cached", "--others", "--exclude-standard") == set()
    there = {name for name in versioned("--cached") if (ROOT / name).is_file()}
    assert there - packed == set()


def test_a_file_beside_the_rooms_is_not_shipped():
    """An env file, a log, a key that somebody keeps in the folder."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = set(shipped["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    tops = {name.split("/")[0] for name in versioned("--cached")}
    # These two hatchling takes by itself.
    assert named == tops - {"pyproject.toml", ".gitignore"}
