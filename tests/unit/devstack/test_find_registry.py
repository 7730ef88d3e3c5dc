"""Which registry is taken."""

import os

import pytest

from devstack.errors import AbsentError, StackError
from devstack.parts import quiet
from devstack.registry import find_registry

V2 = "docker-registry github.com/docker/distribution 2.8.2+ds1"
V3 = "registry github.com/distribution/distribution/v3 v3.1.1+unknown"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without package managers; call it to put a program on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("devstack.processes._setpriv", lambda: None)

    def put(name, says):
        path = folder / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    return put


async def test_the_path_comes_first(machine, tmp_path):
    machine("docker-registry", V2)
    path = machine("registry", V3)

    found = await find_registry("any", cache_dir=tmp_path, say=quiet)

    assert (found.path, found.version) == (path, "3")


async def test_a_version_asked_for_skips_others(machine, tmp_path):
    machine("registry", V3)
    path = machine("docker-registry", V2)

    found = await find_registry("2", cache_dir=tmp_path, say=quiet)

    assert (found.path, found.version) == (path, "2")


async def test_a_program_that_only_has_the_name_is_not_taken(machine, tmp_path):
    machine("registry", "npm registry tool 3.0")
    path = machine("docker-registry", V2)

    assert (await find_registry("any", cache_dir=tmp_path, say=quiet)).path == path


async def test_a_chosen_program_wins(machine, tmp_path):
    machine("registry", V3)
    chosen = machine("mine", V2)

    found = await find_registry("any", cache_dir=tmp_path, say=quiet, chosen=chosen)

    assert (found.path, found.version) == (chosen, "2")


async def test_a_chosen_program_that_is_no_registry_is_said(machine, tmp_path):
    machine("registry", V3)
    with pytest.raises(StackError, match=r"RQ_REGISTRY_BINARY=.*mine"):
        await find_registry(
            "any", cache_dir=tmp_path, say=quiet, chosen=machine("mine", "something")
        )


async def test_none_says_what_was_tried(machine, tmp_path):
    with pytest.raises(AbsentError) as error:
        await find_registry("any", cache_dir=tmp_path, say=quiet)
    for tried in ("PATH", "Debian", "Go"):
        assert tried in str(error.value)


async def test_debians_package_is_unpacked_not_installed(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    unpacked = f"mkdir -p usr/bin; printf '#!/bin/sh\\necho {V2}' > usr/bin/docker-registry; "
    apt, dpkg = machine("apt-get", ""), machine("dpkg-deb", "")
    apt.write_text("#!/bin/sh\n: > docker-registry_2.8.2_amd64.deb\n")
    dpkg.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{unpacked} chmod +x usr/bin/docker-registry\n")
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")

    found = await find_registry("2", cache_dir=tmp_path / "cache", say=quiet)

    assert found.path == tmp_path / "cache/docker-registry/usr/bin/docker-registry"
    assert found.version == "2"
