"""What can go wrong in asking, split by what the caller does next."""


class RegistryQuotaError(Exception):
    """The API did not do what was asked of it. The message is one sentence."""


class UnreachableError(RegistryQuotaError):
    """No answer, or none of the API's: try again later. A build goes on without it."""


class RefusedError(RegistryQuotaError):
    """The API answered with an error."""

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]]) -> None:
        super().__init__(detail)
        self.status = status
        """HTTP's."""
        self.errors = errors
        """Wrong fields: {"field", "message"}."""

    @property
    def retriable(self) -> bool:
        """Whether the same call may succeed later without anybody doing anything."""
        return self.status >= 500 or self.status in {409, 429}
