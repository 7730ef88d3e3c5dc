"""What `plan` and `cleanup` print, and their exit codes."""

import pytest

from cli import cleanup

DIGEST = f"sha256:{'ab' * 32}"


def image(**changes):
    return {
        "repository": "acme/api",
        "app": "api",
        "digest": DIGEST,
        "tags": ["1.0", "stable"],
        "action": "delete",
        "code": "beyond_newest",
        "why": "deleted: 4th newest, frees 1 KB",
        "freed_bytes": 1024,
    } | changes


def plan(**changes):
    return {
        "id": "0c7f2d6e-0000-4000-8000-000000000001",
        "expires_at": "2026-11-25T04:15:00.000000Z",
        "workspace": "acme",
        "usage_bytes": 4096,
        "usage_after_bytes": 3072,
        "target_bytes": 3500,
        "freed_bytes": 1024,
        "target_reached": True,
        "why_not": None,
        "blocks": [],
        "warnings": [],
        "images": [
            image(action="keep", tags=[], why="kept: its grace is not over", freed_bytes=0),
            image(),
        ],
    } | changes


def outcome(**changes):
    return {
        "performed": True,
        "run_id": "3f1c",
        "freed_bytes": 1024,
        "images": [image()],
        "failed": [],
        "target_reached": True,
        "done": True,
        "warnings": [],
    } | changes


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"target_reached": False}, 0),
        ({"failed": [{"repository": "a/b", "digest": DIGEST, "reason": "500"}]}, 1),
        ({"done": False}, 1),
        ({"target_reached": False, "warnings": ["registry_unavailable"]}, 1),
        ({"target_reached": False, "warnings": ["max_ratio_per_run"]}, 3),
        ({"target_reached": False, "warnings": ["deletes_disabled"]}, 3),
        ({"target_reached": False, "warnings": ["not_configured", "registry_denied"]}, 3),
        # One repository was left out because of its lease, and there was enough without it.
        ({"warnings": ["stale_lease"]}, 0),
    ],
)
def test_the_exit_code_tells_done_from_failed_from_refused(changes, code):
    assert cleanup.exit_code(outcome(**changes)) == code


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_plan_shows_first_what_goes(capsys):
    cleanup.show_plan(plan(), as_json=False)
    printed = lines(capsys)
    going = next(number for number, line in enumerate(printed) if "acme/api:1.0, stable" in line)
    staying = next(number for number, line in enumerate(printed) if "acme/api@sha256:" in line)
    assert going < staying
    assert printed[-2] == "1 of 2 manifests would go and free 1 KB: 4 KB → 3 KB, target 3.4 KB"
    assert printed[-1].endswith(
        "2026-11-25 04:15 UTC: registry-quota cleanup acme --plan 0c7f2d6e-0000-4000-8000-000000000001"
    )


def test_a_plan_that_the_registry_was_not_asked_about_says_so(capsys):
    warnings = [{"code": "registry_not_asked", "why": "it could not be asked"}]
    cleanup.show_plan(plan(warnings=warnings), as_json=False)
    assert "registry_not_asked: it could not be asked" in capsys.readouterr().out


def test_a_plan_says_why_it_is_refused_and_falls_short(capsys):
    blocks = [{"code": "max_ratio_per_run", "why": "5 of 9 images would be deleted"}]
    cleanup.show_plan(plan(blocks=blocks, why_not="5 of 9 images"), as_json=False)
    printed = lines(capsys)
    assert "refused max_ratio_per_run: 5 of 9 images would be deleted" in printed
    assert "target not reached: 5 of 9 images" in printed


def test_a_cleanup_says_what_went_and_what_did_not(capsys):
    failed = [{"repository": "acme/web", "digest": DIGEST, "reason": "the registry answered 500"}]
    cleanup.show_outcome(
        "acme",
        outcome(failed=failed, target_reached=False, warnings=["registry_unavailable"]),
        "nothing more may go",
    )
    printed = "\n".join(lines(capsys))
    assert "acme/api:1.0, stable" in printed
    assert f"failed acme/web@{DIGEST}: the registry answered 500" in printed
    assert "registry_unavailable: the registry does not answer as it should" in printed
    assert "acme: freed 1 KB, target not reached (run 3f1c)" in printed
    assert "target not reached: nothing more may go" in printed


def test_a_cleanup_with_nothing_to_do_says_so(capsys):
    nothing = outcome(images=[], freed_bytes=0, run_id=None)
    cleanup.show_outcome("acme", nothing, None)
    assert lines(capsys) == ["acme: nothing to do, the target is reached already"]


def test_names_from_outside_cannot_colour_the_terminal(capsys):
    cleanup.show_plan(plan(images=[image(why="deleted: \x1b[31m[red]x[/red]")]), as_json=False)
    printed = "\n".join(lines(capsys))
    assert "\x1b" not in printed
    assert "[red]x" in printed
