"""The main job in containers: the very tests that the processes of `make run` pass."""

from tests.acceptance.test_main_job import (
    test_a_push_is_recorded_counted_announced_and_makes_room,
    test_a_workspace_below_the_threshold_is_left_alone,
    test_deleting_by_digest_considers_every_tag_and_indexes_keep_their_children,
    test_two_hooks_at_once_run_one_cleanup,
)

__all__ = [
    "test_a_push_is_recorded_counted_announced_and_makes_room",
    "test_a_workspace_below_the_threshold_is_left_alone",
    "test_deleting_by_digest_considers_every_tag_and_indexes_keep_their_children",
    "test_two_hooks_at_once_run_one_cleanup",
]
