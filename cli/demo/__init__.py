"""`registry-quota demo` (`make demo`): the main job in one go, on real parts, verified at the end.

In reading order: `command` (which stack), `story` (the steps), `images` and `push` (what goes into
the registry), `events` (what comes out of Kafka), `show` (how it looks), `pull` and `check` (does
the registry agree).
"""

from cli.demo.command import register

__all__ = ["register"]
