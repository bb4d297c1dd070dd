"""Data read as a stream: more than a disk holds, from the hub, tars or tables."""

from dataclasses import dataclass
from typing import Annotated, Any

from dalle_base.common.bounds import Bounds
from dalle_base.data.sources.base import Source
from dalle_base.data.sources.hub import DatasetsConfig


@dataclass
class StreamConfig(DatasetsConfig):
    """Tables, tars or a dataset's name, read as they are needed: for more than a disk holds."""

    buffer: Annotated[int, Bounds(1, 10**6)] = 2000
    """Images that are shuffled with one another; twice as many are kept in memory, undecoded."""
    held_out_count: Annotated[int, Bounds(1, 10**6)] = 256
    """Images set aside to measure on where held_out_path is empty; of a small stream a share."""

    def open(self) -> tuple[Any, Source]:
        """Return the training stream, and the held-out images, which are kept in memory."""
        from dalle_base.data.sources.streaming import open_stream  # with numpy, not for --help

        return open_stream(self)
