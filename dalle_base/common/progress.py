"""Where a progress bar is drawn."""

import contextlib
from typing import Any

from tqdm.utils import ObjectWrapper


class Forgiving(ObjectWrapper):
    """A stream for a bar: where it cannot be written any more (a closed terminal, a log on a full
    disk), what it shows is lost and nothing else."""

    def __eq__(self, other: object) -> bool:
        """Whether both are of one stream: by that tqdm knows the bars that a line would tear."""
        return self._wrapped == getattr(other, "_wrapped", other)

    __hash__ = None  # type: ignore[assignment]

    def write(self, text: str) -> Any:
        """Write a text, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            return self._wrapped.write(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._wrapped.flush()
