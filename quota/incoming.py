"""How large a build that is about to push will be. PURE."""

from collections.abc import Container, Iterable, Sequence


def incoming_from_layers(layers: Iterable[tuple[bytes, int]], held: Container[bytes]) -> int:
    """Bytes that a build adds: its distinct (digest, size) layers that the workspace has not got.

    A digest that is named twice counts once, with the larger of its sizes.
    """
    new: dict[bytes, int] = {}
    for digest, size in layers:
        if size < 0:
            raise ValueError(f"a layer cannot have {size} bytes")
        if digest not in held:
            new[digest] = max(size, new.get(digest, 0))
    return sum(new.values())


def percentile_90(samples: Sequence[int]) -> int | None:
    """The smallest sample that at least nine in ten do not exceed (nearest rank); None of none.

    Used on an app's new unique bytes per push, to estimate its next one.
    """
    if not samples:
        return None
    rank = -(-9 * len(samples) // 10)
    return sorted(samples)[rank - 1]
