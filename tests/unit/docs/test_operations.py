"""docs/operations.md knows every alert, and its arithmetic is right."""

import re

import yaml

from tests.support.pages import ROOT

TEXT = (ROOT / "docs/operations.md").read_text()
MEASURED = (ROOT / "docs/performance.md").read_text()


def row(label, text=TEXT):
    """The cells of a table's row, without its first."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def number(text):
    scale = {"million": 1e6, "GB": 1e9, "TB": 1e12}
    amount, _, unit = text.replace(",", "").partition(" ")
    return float(amount) * scale.get(unit, 1)


def found(pattern, text=TEXT):
    """What the pattern's group is in the text."""
    (said,) = re.findall(pattern, text)
    return said


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


def bytes_of_a_digest():
    """One that is an image's own: a reference, and storage's word."""
    tables = [numbers(f"`{label}`") for label in ("workspace_digests", "stored_blobs")]
    return sum(image / rows for rows, _heap, _indexes, image in tables)


def bytes_of_ten_new_layers():
    """For ever, with a config and the manifest: twelve digests of its own, not the table's eight."""
    kept = number(row("all")[-1]) - numbers("`outbox`")[-1]
    return kept + (12 - numbers("`workspace_digests`")[0]) * bytes_of_a_digest()


def test_what_an_image_takes_is_said_in_words_as_well():
    digest = int(found(r"= (\d+) bytes: an image"))
    assert near(digest, bytes_of_a_digest())
    assert near(float(found(r"so ([\d.]+) KB\.")) * 1000, bytes_of_ten_new_layers())


def first(text):
    """The number that a cell begins with."""
    return float(found(r"^(?:about )?([\d.,]+)", text).replace(",", ""))


def test_no_process_takes_more_than_was_measured():
    """The page rounds, and may be behind what is better by now."""
    busy = row("receiver, one at a time, new connection each: CPU s per 10,000", MEASURED)
    measured = {
        "receiver": 10_000 / first(busy[0]),
        "consumer": first(row("P3 | backlog of 100,000", MEASURED)[2]),
        "API": 1000 / first(row("P5 | hook that reserves, 1,000 images", MEASURED)[2]),
        "a registry": first(row("P1 | one event at a time", MEASURED)[2]),
    }
    said = {
        process: first(row(f"{process} | about")[0]) for process in ("receiver", "consumer", "API")
    }
    said["a registry"] = first(found(r"new connection: about ([\d,]+) events/s"))
    for process, figure in said.items():
        assert measured[process] / 2 <= figure <= 1.1 * measured[process], process


def test_sizes_follow_from_the_figures():
    days = [pushes * 365 * 3 for pushes in numbers("pushes of ten new layers")]
    for wanted, told in zip(days, numbers("in three years"), strict=True):
        assert near(told, wanted)
    for images, postgres, kafka, copies, second in zip(
        days,
        numbers("Postgres:"),
        numbers("Kafka:"),
        numbers("Kafka with three"),
        numbers("events a second"),
        strict=True,
    ):
        assert near(postgres, images * bytes_of_ten_new_layers() * 1.5)
        assert near(kafka, images * 12 * 1_200)
        assert near(copies, 3 * kafka)
        daily = images / 3 / 365
        assert near(second, daily * 12 * 0.1 / 3600)
