"""Near-duplicates: images whose thumbnails of 16x16 differ by next to nothing."""

import numpy as np

BLOCK = 256
TOLERANCE_COLOURED = 0.03
TOLERANCE_MASKS = 0.06
"""Root mean square difference of thumbnails, in [0, 1], below which two images are one."""


def distinct(
    thumbnails: np.ndarray, tolerance: float, against: np.ndarray | None = None
) -> np.ndarray:
    """Which images stay when those are dropped that are nearly one that came before.

    Args:
        thumbnails: float32 [n, D] in [0, 1], as `thumbnail` makes them; the first of a kind stays.
        tolerance: root mean square difference of two that are the same.
        against: float32 [m, D]: more images, which none may resemble.

    Returns:
        bool [n].
    """
    count, width = thumbnails.shape
    before = 0 if against is None else len(against)
    # Kept images in one array that is long enough for all, so that nothing is copied to grow.
    kept = np.empty((before + count, width), dtype=np.float32)
    if against is not None:
        kept[:before] = against
    filled, stays = before, np.zeros(count, dtype=bool)
    limit = tolerance**2 * width
    for first in range(0, count, BLOCK):
        block = thumbnails[first : first + BLOCK]
        seen = (_squared(block, kept[:filled]) < limit).any(axis=1)
        near = _squared(block, block) < limit
        chosen: list[int] = []
        for at in np.flatnonzero(~seen):
            if not near[at, chosen].any():
                chosen.append(int(at))
        kept[filled : filled + len(chosen)] = block[chosen]
        filled += len(chosen)
        stays[first + np.array(chosen, dtype=int)] = True
    return stays


def _squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances of all rows, [n, m]."""
    lengths = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
    return lengths - 2 * one @ other.T
