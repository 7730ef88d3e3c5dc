"""What somebody may keep here is bounded: one who passes a bound hears the number, and what to do. PURE."""


class TooMuchError(Exception):
    """A bound would be passed; nothing was changed. `field` is the request's that is too much."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
