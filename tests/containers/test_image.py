"""The image: small, not root, nothing to write to, labelled, healthy by its own word."""

import json

import pytest_asyncio

from devstack.processes import run_tool
from tests.support.compose import STANDING


@pytest_asyncio.fixture
async def image(compose):
    return json.loads(await run_tool(["docker", "image", "inspect", await name(compose)], what="i"))


async def name(compose):
    services = json.loads(await compose("config", "--format", "json"))["services"]
    return services["api"]["image"]


async def test_it_says_what_it_is_and_is_nobody_of_importance(image):
    config = image[0]["Config"]
    assert config["User"] == "10001:10001"
    labels = config["Labels"]
    for label in ("title", "description", "licenses", "version"):
        assert labels[f"org.opencontainers.image.{label}"]
    assert config["Healthcheck"]["Test"] == ["CMD", "healthcheck"]


async def test_it_runs_with_nothing_to_write_to_and_no_right_at_all(compose, image):
    printed = await run_tool(
        [
            *("docker", "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none"),
            *("--security-opt=no-new-privileges:true", await name(compose), "version"),
        ],
        what="docker run",
    )
    assert printed.split()[-1][0].isdigit()


async def test_what_we_add_to_the_base_stays_below_a_hundred_megabytes(compose, image):
    history = await run_tool(
        ["docker", "history", "--human=false", "--format={{json .}}", await name(compose)],
        what="docker history",
    )
    layers = [json.loads(line) for line in history.splitlines()]
    ours = 0
    for layer in layers:
        ours += int(layer["Size"])
        if "useradd" in layer["CreatedBy"]:
            break
    print(f"image {image[0]['Size']:,} bytes, of that ours {ours:,}")  # noqa: T201
    assert ours < 100_000_000


async def test_every_service_is_healthy(compose):
    listed = json.loads(f"[{','.join((await compose('ps', '--format', 'json')).splitlines())}]")
    health = {item["Service"]: item["Health"] for item in listed}
    assert {name: health[name] for name in STANDING} == dict.fromkeys(STANDING, "healthy")
