"""What somebody may keep here is bounded: one who passes a bound hears the number, and what to do. PURE."""


class TooMuchError(Exception):
    """A bound would be passed; nothing was changed. `field` is the request's that is too much."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def too_many_workspaces(name: str, most: int) -> TooMuchError:
    """For a workspace that nothing was ever pushed to and that nobody has set."""
    return TooMuchError(
        "workspace",
        f"{name} is unknown here, and so are {most} others that somebody has asked for, which is as many"
        " as are kept: push to it, or set its quota (`registry-quota workspaces set`), then repeat this",
    )
