"""How many bytes the receiver holds at once: the bound on its memory."""


class InFlight:
    """Counts the bytes of deliveries being read and of messages that Kafka has not taken yet.

    They stay counted for as long as the Kafka client holds them, also after their request was
    answered 503: a broker that is away must not fill the memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0

    def take(self, size: int, share: float = 1.0) -> bool:
        """Count `size` bytes, or answer False when that would pass the limit, or that share of it."""
        if self.bytes + size > self._limit * share:
            return False
        self.bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Bytes that are held no longer."""
        self.bytes -= size
