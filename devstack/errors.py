"""What stops the embedded stack."""


class StackError(Exception):
    """The stack cannot go on. The message is a sentence for a person that says what to do."""


class AbsentError(StackError):
    """A part cannot be had on this machine; the stack goes on without it."""
