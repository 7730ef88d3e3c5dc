"""The events' schemas refuse what is not an event of the type."""

import copy
from typing import Any

import jsonschema_rs
import pytest

from quota.events import DATA
from tests.support.published import check_event

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "0d3a52ab-4bd0-4b0e-a9c6-7a9f2ab6ce10",
    "source": "/registry-quota",
    "type": "io.registryquota.usage.level_changed.v1",
    "subject": "acme",
    "time": "2026-11-25T04:00:00.000000Z",
    "datacontenttype": "application/json",
    "data": {
        "level": "warning",
        "previous_level": "ok",
        "usage_bytes": 700,
        "quota_bytes": 1000,
        "ratio": 0.7,
    },
}


def test_an_event_as_it_is_published_fits():
    check_event(EVENT)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("type",), "io.registryquota.image.recorded.v1"),
        (("specversion",), "2.0"),
        (("subject",), 7),
        (("time",), "yesterday"),
        (("data", "level"), "awful"),
        (("data", "usage_bytes"), -1),
        (("data", "ratio"), "much"),
    ],
)
def test_another_value_does_not(place, value):
    event = copy.deepcopy(EVENT)
    holder = event if len(place) == 1 else event["data"]
    holder[place[-1]] = value
    with pytest.raises(jsonschema_rs.ValidationError):
        check_event(event)


def test_every_type_has_a_schema_that_is_one():
    for kind in DATA:
        with pytest.raises(jsonschema_rs.ValidationError):
            check_event({"type": kind})
