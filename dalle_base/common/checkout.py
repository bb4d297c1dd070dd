"""Files that come with the project, found from any folder."""

import subprocess
from pathlib import Path

_BESIDE = Path(__file__).parents[2]
_INSTALLED = _BESIDE / "dalle_checkout"
CHECKOUT = _INSTALLED if _INSTALLED.is_dir() else _BESIDE
"""The folder that holds scripts, `models` and `configs`: beside the packages in a checkout, in a
folder of its own where a wheel is installed (setup.py).
"""


INSTALLED = CHECKOUT == _INSTALLED
"""Whether this is an installation, which has fewer models than a checkout."""


def in_checkout(path: str | Path) -> Path:
    """Return a path as it is, or inside the checkout where it leads nowhere but there."""
    path = Path(path)
    inside = CHECKOUT / path
    try:
        return inside if not path.exists() and inside.exists() else path
    except (OSError, ValueError):  # no name that a file can have
        return path


def commit() -> str:
    """Return the checkout's commit, and whether something in it has changed since."""
    if not (CHECKOUT / ".git").exists():  # installed, perhaps inside somebody else's repository
        return "unknown"
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + (", with changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
