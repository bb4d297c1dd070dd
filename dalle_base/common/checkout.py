"""Files that come with the project, found from any folder."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
"""The folder that holds `models` and `configs` beside the packages, in a checkout."""


def in_checkout(path: str | Path) -> Path:
    """Return a path as it is, or inside the checkout where it leads nowhere but there."""
    path = Path(path)
    inside = CHECKOUT / path
    try:
        return inside if not path.exists() and inside.exists() else path
    except (OSError, ValueError):  # no name that a file can have
        return path
