"""`registry-quota dead-letters list|show|retry|drop`: what could not be processed, and what becomes of it.

In reading order: `command` (what is asked and how it looks), `letters` (what a dead letter is, and
what retrying it sends), `desk` (where they are read, sent and marked).
"""

from cli.dead_letters.command import register

__all__ = ["register"]
