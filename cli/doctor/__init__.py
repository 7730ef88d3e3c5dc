"""`registry-quota doctor`: is everything set, reachable and switched on, and if not, what mends it.

In reading order: `command` (what is asked and how it looks), `findings` (what an answer is),
`settings`, `postgres`, `kafka`, `registry`, `doors`, `notifications`, `clocks` (the checks), `connect` (the block for the
registry's configuration).
"""

from cli.doctor.command import register

__all__ = ["register"]
