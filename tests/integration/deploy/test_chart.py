"""Helm lints and renders the chart, and Kubernetes' own schemas accept what comes of it.

Programs and schemas come from the PATH or the cache (`make helm-check` puts them there).
"""

import pytest

from devstack.errors import AbsentError, StackError
from devstack.processes import run_tool
from tools.helm import CHART, EXAMPLE, EXAMPLE_VALUES, KUBERNETES, program, render, schemas

NEEDED = [
    'image={"repository":"registry.example.com/registry-quota"}',
    'existingSecret="registry-quota"',
    'kafka.bootstrap="kafka:9092"',
    'registry.url="http://registry:5000"',
]


async def had(tool):
    try:
        return await tool
    except AbsentError as error:
        pytest.skip(str(error))


@pytest.fixture
async def helm():
    return await had(program("helm"))


async def conform(manifests, version, folder):
    tool, known = await had(program("kubeconform")), await had(schemas())
    file = folder / "manifests.yaml"
    file.write_text(manifests)
    return await run_tool(
        [
            tool,
            "-summary",
            "-strict",
            *("-kubernetes-version", version),
            *(
                "-skip",
                "monitoring.coreos.com/v1/ServiceMonitor",
            ),  # the operator's, not Kubernetes'
            "-schema-location",
            f"{known}/v{version}-local-strict/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
            file,
        ],
        what="kubeconform",
    )


async def test_helm_finds_nothing_to_complain_of(helm):
    printed = await run_tool(
        [
            *(helm, "lint", "--strict", CHART, "--values", EXAMPLE_VALUES),
            *("--kube-version", KUBERNETES[0]),
        ],
        what="helm lint",
    )
    assert "0 chart(s) failed" in printed


async def test_the_example_is_what_the_chart_renders(helm):
    assert await render(EXAMPLE_VALUES) == EXAMPLE.read_text(), "run `make helm-check`"


@pytest.mark.parametrize("version", KUBERNETES)
async def test_kubernetes_knows_every_field(helm, version, tmp_path):
    everything = EXAMPLE.read_text() + await render(None, *NEEDED)
    printed = await conform(everything, version, tmp_path)
    assert "Invalid: 0, Errors: 0" in printed
    assert "Valid: 0" not in printed


async def test_a_field_that_kubernetes_does_not_know_is_found(helm, tmp_path):
    misspelt = EXAMPLE.read_text().replace("livenessProbe", "livenesProbe")
    with pytest.raises(StackError, match="livenesProbe"):
        await conform(misspelt, KUBERNETES[-1], tmp_path)


@pytest.mark.parametrize(
    "missing", ["image.repository", "existingSecret", "kafka.bootstrap", "registry.url"]
)
async def test_a_value_that_has_no_default_is_asked_for_by_name(helm, missing):
    given = [setting for setting in NEEDED if setting.split("=")[0] != missing.split(".repo")[0]]
    with pytest.raises(StackError, match=missing):
        await render(None, *given)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('settings={"RQ_API_TOKEN":"in plain sight"}', "RQ_API_TOKEN"),
        ('settings={"LOG_LEVEL":"info"}', "LOG_LEVEL"),
        ("consumer.replica=3", "replica"),
        ('api.replicas="two"', "replicas"),
    ],
)
async def test_a_value_that_means_nothing_is_refused_by_name(helm, setting, named):
    with pytest.raises(StackError, match=named):
        await render(None, *NEEDED, setting)


async def test_what_is_switched_off_is_not_there(helm):
    off = ["migrate", "podDisruptionBudget", "networkPolicy"]
    printed = await render(None, *NEEDED, *(f"{part}.enabled=false" for part in off))
    for kind in ("Job", "PodDisruptionBudget", "NetworkPolicy", "Ingress", "ServiceMonitor"):
        assert f"kind: {kind}\n" not in printed
    assert "kind: StatefulSet\n" in printed
    assert "https" not in printed.lower()
