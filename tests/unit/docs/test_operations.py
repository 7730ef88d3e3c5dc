"""docs/operations.md knows every alert, and its arithmetic is right."""

import re

import yaml

from tests.support.pages import ROOT

TEXT = (ROOT / "docs/operations.md").read_text()


def row(label):
    """The cells of a table's row, without its first."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {label}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def number(text):
    scale = {"million": 1e6, "GB": 1e9, "TB": 1e12}
    amount, _, unit = text.replace(",", "").partition(" ")
    return float(amount) * scale.get(unit, 1)


def numbers(label):
    return [number(cell) for cell in row(label)]


def near(left, right):
    return abs(left - right) <= 0.05 * right


def test_it_says_of_every_alert_what_to_do():
    groups = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^\| `(RegistryQuota\w+)` \|", TEXT, re.MULTILINE) == alerts


def test_bytes_of_an_image_are_the_sum_of_its_rows():
    tables = ["`workspace_digests`", "`stored_blobs`", "`manifests`", "`outbox`", "`tags`"]
    whole = 0.0
    for label in tables:
        rows, heap, indexes, image = numbers(label)
        assert near(rows * (heap + indexes), image), label
        whole += image
    # A few tables of a page or two make the rest.
    assert near(whole, number(row("all")[-1]))


def test_sizes_follow_from_the_figures():
    days = [pushes * 365 * 3 for pushes in numbers("pushes of ten new layers")]
    for wanted, found in zip(days, numbers("in three years"), strict=True):
        assert near(found, wanted)
    for images, postgres, kafka, copies, second in zip(
        days,
        numbers("Postgres:"),
        numbers("Kafka:"),
        numbers("Kafka with three"),
        numbers("events a second"),
        strict=True,
    ):
        assert near(postgres, images * 3_700 * 1.5)
        assert near(kafka, images * 12 * 1_200)
        assert near(copies, 3 * kafka)
        daily = images / 3 / 365
        assert near(second, daily * 12 * 0.1 / 3600)
