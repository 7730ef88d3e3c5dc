"""What a cleanup asks of the registry, and what is announced because of it, is in the build's trace."""

from runtime import tracing
from tests.support.spans import Recording


async def test_a_builds_trace_shows_its_cleanup_and_reaches_its_quota_events(service):
    await service.configure("acme", 1_000_000, untagged_grace=0)
    for number in range(9):
        await service.push("acme/api", f"v{number}", 100_000)
    recording = Recording()
    with tracing.spanning(recording, "a build", kind="server") as build:
        answer = await service.ask("acme")
    assert build is recording.spans[0]
    assert recording.spans[0].noted["registry_quota.reason"] == "cleaned_to_target"
    # One asks beforehand whether the registry is a cache.
    _probe, *deleted = recording.named("DELETE registry")
    assert len(deleted) == len(answer.outcome.images) > 0
    for span, image in zip(deleted, answer.outcome.images, strict=True):
        assert span.parent == build.traceparent
        assert span.noted["kind"] == "client"
        assert span.noted["url.path"].endswith(f"/v2/acme/api/manifests/{image.digest}")
        assert span.noted["http.response.status_code"] == 202
    assert all(span.ended for span in recording.spans)

    rows = await service.pool.fetch("SELECT type, traceparent FROM outbox ORDER BY id")
    by_type = {row["type"].split(".", 2)[2]: row["traceparent"] for row in rows}
    assert by_type["cleanup.finished.v1"] == build.traceparent
    assert by_type["image.removed.v1"] == build.traceparent
    assert by_type["image.recorded.v1"] is None  # before the build, and nobody traced that
