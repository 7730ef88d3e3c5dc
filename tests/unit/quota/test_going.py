"""What a stored plan deletes, an entry an image."""

from quota.going import going_of


def manifest(digest, action="delete", **more):
    return {
        "repository": "acme/api",
        "digest": digest,
        "tags": [],
        "action": action,
        "freed_bytes": 10,
        "why": f"{action}d: for a reason",
        **more,
    }


def test_what_goes_along_counts_with_its_image_and_what_is_kept_does_not():
    going = going_of(
        {
            "images": [
                manifest("index", tags=["1.0"], goes_with=None, pushed_at="2026-01-01T00:00:00Z"),
                manifest("child", goes_with="index", last_pulled_at="2026-02-01T00:00:00Z"),
                manifest("other", goes_with=None),
                manifest("kept", "keep"),
            ]
        }
    )
    assert [(item.digest, item.manifests, item.freed_bytes) for item in going] == [
        ("index", 2, 20),
        ("other", 1, 10),
    ]
    assert going[0].last_pulled_at == "2026-02-01T00:00:00Z"
    assert going[0].why == "for a reason"


def test_a_plan_that_an_earlier_release_stored_is_shown_a_manifest_a_row():
    assert len(going_of({"images": [manifest("index"), manifest("child")]})) == 2
