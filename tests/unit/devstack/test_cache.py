"""What is fetched or built once for all stacks."""

import asyncio
from pathlib import Path

import pytest

from devstack.cache import built_once
from devstack.errors import StackError
from devstack.jars import _fetch, _remembered


async def test_two_who_want_the_same_build_it_once(tmp_path):
    built = []

    async def build(folder):
        built.append(folder)
        await asyncio.sleep(0)
        (folder / "program").write_text("v1")

    folders = await asyncio.gather(*(built_once(tmp_path, "thing", build) for _ in range(3)))

    assert len(built) == 1
    assert set(folders) == {tmp_path / "thing"}
    assert (tmp_path / "thing" / "program").read_text() == "v1"


async def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path):
    async def fail(folder):
        (folder / "half").write_text("")
        raise StackError("no network")

    async def build(folder):
        (folder / "whole").write_text("")

    with pytest.raises(StackError, match="no network"):
        await built_once(tmp_path, "thing", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]

    folder = await built_once(tmp_path, "thing", build)
    assert [path.name for path in folder.iterdir()] == ["whole"]


async def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(tmp_path):
    (tmp_path / "file").write_text("")

    async def build(_folder):
        raise AssertionError

    with pytest.raises(StackError, match="RQ_CACHE_DIR"):
        await built_once(tmp_path / "file" / "cache", "thing", build)


def test_a_class_path_is_forgotten_when_a_jar_has_gone(tmp_path):
    jar, remembered = tmp_path / "a.jar", tmp_path / "kafka.classpath"
    assert _remembered(remembered) == []
    jar.write_text("")
    remembered.write_text(str(jar))
    assert _remembered(remembered) == [str(jar)]
    jar.unlink()
    assert _remembered(remembered) == []


GOOD = "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"  # sha256 of b"good"
JAR = Path("org/example/tool/1.0/tool-1.0.jar")


@pytest.fixture
def download(monkeypatch):
    """Call it with what a download brings: bytes of the jar, or an error."""

    def brings(outcome: bytes | Exception) -> None:
        def download(repository: Path, _coordinate: str) -> None:
            (repository / JAR).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(outcome, Exception):
                raise outcome
            (repository / JAR).write_bytes(outcome)

        monkeypatch.setattr("devstack.jars._download", download)

    return brings


def test_a_damaged_jar_is_fetched_again(tmp_path, download):
    download(b"good")
    (tmp_path / JAR).parent.mkdir(parents=True)
    (tmp_path / JAR).write_bytes(b"half")

    assert _fetch(tmp_path, "org.example:tool:1.0", GOOD) == tmp_path / JAR
    assert (tmp_path / JAR).read_bytes() == b"good"


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (b"evil", "not the jar that was locked"),
        (ConnectionError("no route to host"), "needs the network"),
    ],
)
def test_a_jar_that_is_another_or_cannot_be_had_is_not_used(tmp_path, download, outcome, message):
    download(outcome)
    with pytest.raises(StackError, match=message):
        _fetch(tmp_path, "org.example:tool:1.0", GOOD)
    assert not (tmp_path / JAR).exists()
