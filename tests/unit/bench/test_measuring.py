"""What a benchmark prints: medians with their spread, ratios of repetitions that ran side by side."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from bench.__main__ import Section, ratio_lines, ratio_of
from bench.load import artifacts, events
from bench.measuring import Meter, Spread, cpu_seconds, percentile, spreads


def test_a_spread_has_median_smallest_and_largest():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert str(Spread(1234.5, 0.5, 99.0)) == "1,234 (0.5 to 99)"


def test_a_percentile_is_one_of_the_times():
    times = [float(number) for number in range(100)]
    assert percentile(times, 0.5) == 50
    assert percentile(times, 0.99) == 99
    assert percentile([7.0], 0.999) == 7


def test_a_figure_that_a_repetition_lacks_is_left_out():
    assert spreads([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {
        "a": Spread(2.0, 1.0, 3.0),
        "b": Spread(5.0, 5.0, 5.0),
    }


def test_a_ratio_compares_repetition_with_repetition():
    runs = {"one": [{"x": 10.0}, {"x": 40.0}], "other": [{"x": 5.0}, {"x": 10.0}]}
    assert ratio_of(runs, "one", "other", "x") == Spread(3.0, 2.0, 4.0)
    section = Section("t", runs, (("one", "other", "x"), ("one", "missing", "x")))
    assert ratio_lines(section) == ["x: one / other = 3 (2 to 4)"]


def test_a_meter_tells_own_cpu_apart_from_foreign():
    meter = Meter({})
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    found = meter.stop()
    assert found["cpu.load"] >= 0.025  # the kernel counts in ticks of 10 ms, begun ones not
    assert 0 <= found["steal"] <= 1
    assert found["foreign"] >= 0


def test_the_cpu_of_a_process_that_is_gone_is_zero():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gone = psutil.Process(process.pid)
        process.kill()
    assert cpu_seconds(gone) == 0.0


def test_the_same_seed_is_the_same_load():
    assert list(events(50, seed=1)) == list(events(50, seed=1))
    assert list(events(50, seed=1)) != list(events(50, seed=2))


def test_the_backlog_is_shaped_as_it_says():
    told = list(events(4000, seed=3))
    sizes = [len(json.dumps(event)) for event in told]
    assert 1500 < sum(sizes) / len(sizes) < 3000
    targets = [event["target"] for event in told]
    indexes = [item for item in targets if "index" in item["mediaType"]]
    images = {item["digest"]: item for item in targets if "index" not in item["mediaType"]}
    assert 0.03 < len(indexes) / len(told) < 0.08
    assert 0.15 < 1 - len({item["digest"] for item in targets}) / len(told) < 0.25
    assert all(9 <= len(item["references"]) <= 13 for item in images.values())


@pytest.mark.parametrize("layers", [2, 5])
def test_an_artifact_tells_its_blobs_before_its_manifest(layers):
    ((pushed, size),) = artifacts(1, seed=os.getpid(), workspace="w", layers=layers)
    *blobs, manifest = [event["target"] for event in pushed]
    assert [blob["digest"] for blob in blobs] == [
        reference["digest"] for reference in manifest["references"]
    ]
    assert len(blobs) == layers + 1
    assert size == manifest["size"] + sum(blob["size"] for blob in blobs)
